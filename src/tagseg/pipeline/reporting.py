"""Gathering what the report shows."""

from __future__ import annotations

import importlib.metadata
import platform
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from tagseg.cores import cpu_count
from tagseg.data.accumulator import Accumulator
from tagseg.data.dataset import Dataset, MaskFolder, Sample, at_even_steps, read_mask, read_saliency
from tagseg.data.images import numbers_in, read_image, read_index_png, voc_palette
from tagseg.data.map_store import MapStore
from tagseg.errors import brief
from tagseg.evaluation.iou import iou_of_tags
from tagseg.networks.precision import default_device, trainer_precision
from tagseg.pipeline.mining import PRESENT
from tagseg.pipeline.records import EpochRecord, MasksRecord, Metrics, MineRecord, TrainingRecord
from tagseg.pipeline.run import Run
from tagseg.pipeline.run_folder import Finished
from tagseg.report.html import Chart, GalleryRow, Report, StageLine, Tile
from tagseg.report.pictures import overlay_map, overlay_mask, thumbnail
from tagseg.segmentation.model import load

Part = TypeVar("Part")
GALLERY, MAPS_SHOWN, EXTREMES = 12, 2, 5  # photographs a split, maps a photograph, best and worst ones
_BESIDE = ("metrics.json", "segment/MODEL.md", "segment", "masks", "relabel", "report/predictions")  # what has a link


def gather(run: Run, folder: Path, metrics: Metrics, cut: MasksRecord) -> Report:
    """Returns what the report of a run shows.

    Args:
        run: with everything but the report finished.
        folder: of the report, with the `predictions` and `maps` of the evaluation photographs.
        metrics: what was measured.
        cut: the background scores that cut the maps.
    """
    data, settings = run.data, run.settings
    counts = Counter(tag for sample in data.train for tag in sample.tags)
    return Report(
        title=f"{settings.method} on {data.root.resolve().name}",
        facts=[
            ("training photographs:", str(len(data.train))),
            ("evaluation photographs:", str(len(data.val))),
            ("classes:", str(len(data.classes))),
            ("backbone:", settings.backbone),
            ("weights:", Path(settings.weights).name),
            ("seed:", str(settings.seed)),
        ],
        tiles=_tiles(metrics),
        remarks=_or_left_out(run, "remarks", lambda: _remarks(run, metrics, cut), []),
        charts=_or_left_out(run, "charts", lambda: [*_losses(run), *_curves(metrics)], []),
        gallery=_or_left_out(run, "gallery", lambda: _gallery(run, folder), {}),
        stages=[_line(name, result) for name, result in run.finished.items()],
        classes=[(name, counts[number]) for number, name in enumerate(data.classes)],
        settings=settings.model_dump(mode="json"),
        versions=_versions(),
        skipped=[problem.text for problem in data.problems],
        links=[(name, name) for name in _BESIDE if (run.path / name).exists()],
    )


def _or_left_out(run: Run, what: str, made: Callable[[], Part], instead: Part) -> Part:
    """A part of the page; what only shows something never fails a run."""
    try:
        return made()
    except Exception as error:
        run.reporter.say(f"report: the {what} are left out, because they could not be made ({brief(error)})")
        return instead


def _tiles(metrics: Metrics) -> list[Tile]:
    captions = {
        "seeds": ("Seeds", "training photographs, with their tags"),
        "pseudo-masks": ("Pseudo-masks", "training photographs"),
        "with corrections": ("With corrections", "the same, and those that a person has corrected"),
        "class maps": ("Class maps", "evaluation photographs, no tags given"),
        "segmentation": ("Segmentation", "evaluation photographs, no tags given"),
        "test protocol": ("Test protocol", "the same network, by the run's test protocol"),
    }
    return [
        Tile(
            *captions[part],
            table.miou,
            table.precision,
            table.recall,
            {label: scores.iou for label, scores in table.classes.items()},
        )
        for part, table in metrics.score_tables().items()
    ]


def _remarks(run: Run, metrics: Metrics, cut: MasksRecord) -> list[str]:
    remarks = [_background(run, metrics, cut)]
    train, val = metrics.train, metrics.val
    if (
        val is not None
        and val.segmentation is not None
        and not any(scores.recall for name, scores in val.segmentation.classes.items() if name in run.data.classes)
    ):
        remarks.append(
            "The network calls every evaluation photograph background. It has learnt too little, or from masks that "
            "are all but empty: look at the pseudo-masks below, train for more epochs (segment.epochs), or lower "
            "masks.background."
        )
    if train is not None and train.corrected:
        remarks.append(
            f"{train.corrected} pseudo-masks were corrected or rejected by hand. They are kept, and counted apart: "
            "'pseudo-masks' are the others."
        )
    if train is not None and train.coverage.noise is not None and train.coverage.recall is not None:
        remarks.append(
            "Cut at half their maximum, the class maps of the training photographs cover "
            f"{train.coverage.recall:.1f} % of their objects (recall), and {train.coverage.noise:.1f} % of what they "
            "cover is something else (noise)."
        )
    if val is not None and val.tags_map is not None:
        remarks.append(
            "The classifier finds the tags of the evaluation photographs with a mean average precision of "
            f"{val.tags_map:.1f}."
        )
    return [*remarks, *run.finished["premise"].record.sentences]


def _background(run: Run, metrics: Metrics, cut: MasksRecord) -> str:
    masks = run.settings.masks
    text = f"Background score {cut.background:.3f}, "
    if masks.background == "auto":
        text += "split from the maps alone: Otsu's rule over the strongest map value of every training pixel."
    else:
        text += "as set."
    if metrics.train is not None and metrics.train.seeds.miou is not None and metrics.train.oracle.miou is not None:
        seeds, oracle = metrics.train.seeds.miou, metrics.train.oracle
        text += (
            f" With it the seeds reach {seeds:.1f} mIoU. The oracle score {oracle.background:.2f}, picked with the "
            f"masks, would reach {oracle.miou:.1f}: {oracle.miou - seeds:.1f} points more."
        )
    text += f" Refinement of the pseudo-masks: {masks.refine}"
    if cut.background_of_masks != cut.background:
        text += f", after which the background score is {cut.background_of_masks:.3f}"
    return text + ("; saliency takes the place of the score." if masks.saliency else ".")


def _losses(run: Run) -> list[Chart]:
    charts = []
    for stage, title in (
        ("train", "Loss of the classifier"),
        ("integral", "Loss of integral attention learning"),
        ("affinity", "Loss of the affinity network"),
        ("relabel", "Loss of the decoder that labels again"),
        ("segment", "Loss of the segmentation network"),
    ):
        epochs = _epochs(run.finished[stage]) if stage in run.finished else []
        if epochs:
            numbers = list(range(1, len(epochs) + 1))
            lines = {"loss": (numbers, [e.loss for e in epochs])}
            terms = [e.terms or {} for e in epochs]
            for term in dict.fromkeys(name for told in terms for name in told):
                told = [(n, t[term]) for n, t in zip(numbers, terms, strict=True) if term in t]
                lines[term.replace("_", " ")] = ([n for n, _ in told], [v for _, v in told])
            charts.append(Chart(title, lines, x="epoch", y="loss"))
    return charts


def _curves(metrics: Metrics) -> list[Chart]:
    train = metrics.train
    if train is None:
        return []
    lines = {"seeds": (train.curve.background, [v or 0 for v in train.curve.miou])}
    marks = {"chosen without masks": train.background, "oracle": train.oracle.background}
    charts = [Chart("Seeds over the background score", lines, x="background score", y="mIoU", marks=marks)]
    if train.accumulated:
        rounds = [r.round for r in train.accumulated]
        grown = {
            "recall": (rounds, [r.recall or 0 for r in train.accumulated]),
            "noise": (rounds, [r.noise or 0 for r in train.accumulated]),
        }
        charts.append(Chart("Cumulative maps at half their maximum", grown, x="epochs", y="%"))
    return charts


def _epochs(result: Finished[Any]) -> list[EpochRecord]:
    return result.record.epochs if isinstance(result.record, TrainingRecord) else []


def _line(name: str, result: Finished[Any]) -> StageLine:
    epochs = _epochs(result)
    waiting = sum(e.waiting for e in epochs) / len(epochs) if epochs else None
    remarks = ["since it went on after an interruption"] if result.resumed else []
    if isinstance(result.record, MineRecord):
        remarks.append(f"{result.record.bytes / 1e6:.1f} MB of class maps")
    return StageLine(name, result.seconds, waiting, "; ".join(remarks))


def _versions() -> list[tuple[str, str]]:
    packages = (
        "tagseg",
        "torch",
        "torchvision",
        "timm",
        "lightning",
        "numpy",
        "opencv-python-headless",
        "pillow",
    )
    device = default_device()
    found = [("Python", platform.python_version())]
    for name in packages:
        try:
            found.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            continue
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return [
        *found,
        ("device", f"{device.type} ({machine}, {cpu_count()} cores, {trainer_precision(device)})"),
    ]


def _gallery(run: Run, kept: Path) -> dict[str, list[GalleryRow]]:
    data, model = run.data, load(run.path)
    training, maps, walked = run.class_maps(), MapStore(kept / "maps"), run.walked_maps()
    predictions, pseudo_masks = MaskFolder(kept / "predictions"), run.pseudo_masks()
    grown = _grown(data, run.accumulated())

    def rows(samples: tuple[Sample, ...], store: MapStore, pseudo: bool) -> list[GalleryRow]:
        return [_row(sample, store, pseudo) for sample in at_even_steps(samples, GALLERY)]

    def extremes() -> dict[str, list[GalleryRow]]:
        """The evaluation photographs in which the network is best and worst, of more than a page has anyway."""
        measured = [s for s in data.val if s.mask is not None and s.tags and predictions(s).exists()]
        if len(measured) <= GALLERY:
            return {}
        ious = {s.name: iou_of_tags(read_index_png(predictions(s)), read_mask(s.mask), s.tags) for s in measured}  # type: ignore[arg-type]
        measured.sort(key=lambda s: ious[s.name])
        return {
            f"Evaluation photographs, the {EXTREMES} {which} by IoU (chosen with masks)": [
                _row(s, maps, False, f"prediction: IoU {100 * ious[s.name]:.0f}") for s in some
            ]
            for which, some in (("worst", measured[:EXTREMES]), ("best", measured[: -EXTREMES - 1 : -1]))
        }

    def _row(sample: Sample, store: MapStore, pseudo: bool, caption: str = "prediction") -> GalleryRow:
        photo = read_image(sample.image)
        size: tuple[int, int] = photo.shape[:2]
        stored = store.read(sample.name)
        shown = sample.tags if pseudo else tuple(np.flatnonzero(stored.tag_probabilities > PRESENT).tolist())
        stored = stored.only(shown)
        pictures = [("photograph", photo)]
        if pseudo and sample.tags:
            pictures += [(caption, overlay_map(photo, values)) for caption, values in grown(sample, size)]
        for number, values in zip(stored.classes[:MAPS_SHOWN], stored.at(size), strict=False):
            pictures.append((f"map: {data.classes[number]}", overlay_map(photo, values)))
        if pseudo and walked is not None and stored.classes:
            values = walked.read(sample.name).only(shown[:1]).at(size)[0]
            pictures.append((f"after the walk: {data.classes[shown[0]]}", overlay_map(photo, values)))
        if pseudo and run.uses_saliency:
            pictures.append(("saliency", overlay_map(photo, read_saliency(sample, size) / np.float32(255))))
        if pseudo:
            mask = read_index_png(pseudo_masks(sample))
            pictures.append(("pseudo-mask", overlay_mask(photo, mask, voc_palette())))
        kept_mask = predictions(sample)
        predicted = read_index_png(kept_mask) if kept_mask.exists() else model.predict(photo)
        pictures.append((caption, overlay_mask(photo, predicted, voc_palette())))
        if sample.mask is not None:
            pictures.append(("truth", overlay_mask(photo, read_mask(sample.mask), voc_palette())))
        tags = [(data.classes[c], class_colour(c)) for c in sample.tags]
        drawn = [n - 1 for n in numbers_in(predicted) if 0 < n <= len(data.classes) and n - 1 not in sample.tags]
        others = [(data.classes[c], class_colour(c)) for c in drawn]
        return GalleryRow(sample.name, tags, [(said, thumbnail(p)) for said, p in pictures], others)

    return {
        "Training photographs": rows(run.training, training, pseudo=True),
        "Evaluation photographs": rows(data.val, maps, pseudo=False) if data.val else [],
        **extremes(),
    }


def _grown(
    data: Dataset, accumulated: Accumulator | None
) -> Callable[[Sample, tuple[int, int]], list[tuple[str, np.ndarray]]]:
    """Returns what gives the first tag's cumulative map of a photograph, early and half through the training."""
    if accumulated is None:
        return lambda sample, size: []  # noqa: ARG005
    rounds = [r for r in accumulated.rounds() if any(accumulated.maps(i, r).any() for i in range(len(data.train)))]
    shown = dict.fromkeys(rounds[:1] + rounds[len(rounds) // 2 : len(rounds) // 2 + 1])
    index = {sample.name: number for number, sample in enumerate(data.train)}

    def pictures(sample: Sample, size: tuple[int, int]) -> list[tuple[str, np.ndarray]]:
        name = data.classes[sample.tags[0]]
        return [
            (
                f"{name} after {r} epochs",
                accumulated.grid.resize(accumulated.maps(index[sample.name], r)[:1], size)[0],
            )
            for r in shown
        ]

    return pictures


def class_colour(number: int) -> tuple[int, int, int]:
    """Returns the red, green and blue in which a class, 0-based, is drawn."""
    red, green, blue = (int(v) for v in voc_palette()[number + 1])
    return red, green, blue
