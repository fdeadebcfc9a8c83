"""`report`: two runs on the same photographs beside each other, on one page."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tagseg.data.dataset import MaskFolder, Sample, at_even_steps, read_mask
from tagseg.data.images import read_image, read_index_png, voc_palette
from tagseg.errors import BadInput
from tagseg.evaluation.iou import iou_of_tags
from tagseg.files import read_json, write_aside
from tagseg.pipeline.photographs import photographs_again
from tagseg.pipeline.records import Metrics
from tagseg.pipeline.reporting import class_colour
from tagseg.pipeline.run_folder import STAGE, data_of
from tagseg.report.html import GalleryRow, Report, StageLine, Tile, write_report
from tagseg.report.pictures import overlay_mask, thumbnail

SHOWN = 6  # photographs under every heading


def report_on(
    first: str | os.PathLike[str], second: str | os.PathLike[str], out: str | os.PathLike[str] = "comparison.html"
) -> Path:
    """Writes a page on which two finished runs stand beside each other.

    It shows what both measured, the settings in which they differ, how long they took, and evaluation photographs:
    those that the second one gains and loses most (which masks chose, if there are some), and others at even steps.

    Args:
        first, second: folders of runs on the same data set.
        out: the page.

    Returns:
        the page.

    Raises:
        BadInput: a run is not finished, or they are on other photographs.
    """
    runs = (Path(first), Path(second))
    metrics = [_metrics(run) for run in runs]
    roots = [data_of(run, "put it back") for run in runs]
    if roots[0].resolve() != roots[1].resolve():
        raise BadInput(f"{runs[1]}: this run is on {roots[1]}, and {runs[0]} on {roots[0]}; compare runs on the same.")
    data = photographs_again(runs[0], "put it back")
    names = _names(runs)
    page = Report(
        title=f"{names[0]} and {names[1]} on {roots[0].resolve().name}",
        facts=[(f"{letter}:", str(run.resolve())) for letter, run in zip(names, runs, strict=True)],
        tiles=[
            Tile(f"{part}, {name}", "", t.miou, t.precision, t.recall, {k: s.iou for k, s in t.classes.items()})
            for part in metrics[0].score_tables()
            for name, measured in zip(names, metrics, strict=True)
            if (t := measured.score_tables().get(part)) is not None
        ],
        remarks=_differences(runs, names),
        charts=[],
        gallery=_gallery(runs, names, data.val or data.train, data.classes),
        stages=[line for run, name in zip(runs, names, strict=True) for line in _times(run, name)],
        classes=[],
        settings={name: _settings(run) for run, name in zip(runs, names, strict=True)},
        versions=[],
    )
    with write_aside(Path(out)) as aside:
        write_report(aside, page)
    return Path(out)


def _metrics(run: Path) -> Metrics:
    try:
        if not read_json(run / "report" / STAGE)["finished"]:
            raise ValueError("not finished")
        return Metrics.model_validate(read_json(run / "metrics.json"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{run}: there is no finished run here; let 'tagseg fit' go on to its report.") from error


def _names(runs: tuple[Path, Path]) -> tuple[str, str]:
    """What the runs are called: as their folders, where these have other names."""
    first, second = (run.resolve().name for run in runs)
    return (first, second) if first != second else ("first", "second")


def _settings(run: Path) -> dict[str, Any]:
    """What the stages of a run depended on, but for other stages and digests."""
    found = {}
    for stage in sorted(run.glob(f"*/{STAGE}")):
        inputs = read_json(stage).get("inputs", {})
        found[stage.parent.name] = {k: v for k, v in inputs.items() if not k.startswith("after ")}
    return found


def _flat(values: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(values, dict):
        yield prefix, values
        return
    for key, value in values.items():
        yield from _flat(value, f"{prefix}.{key}" if prefix else str(key))


def _differences(runs: tuple[Path, Path], names: tuple[str, str]) -> list[str]:
    one, other = (dict(_flat(_settings(run))) for run in runs)
    found = [
        f"{key}: {one.get(key, '-')} in {names[0]}, {other.get(key, '-')} in {names[1]}."
        for key in sorted(one.keys() | other.keys())
        if one.get(key) != other.get(key)
    ]
    return found or ["Both runs have the same settings."]


def _times(run: Path, name: str) -> Iterator[StageLine]:
    for stage in sorted(run.glob(f"*/{STAGE}"), key=lambda path: path.stat().st_mtime):
        yield StageLine(f"{stage.parent.name}, {name}", float(read_json(stage).get("seconds", 0)))


def _gallery(
    runs: tuple[Path, Path], names: tuple[str, str], samples: tuple[Sample, ...], classes: tuple[str, ...]
) -> dict[str, list[GalleryRow]]:
    places = [MaskFolder(run / "report" / "predictions") for run in runs]
    there = [s for s in samples if all(place(s).is_file() for place in places)]
    palette = voc_palette()

    def row(sample: Sample, ious: tuple[float, ...] = ()) -> GalleryRow:
        photo = read_image(sample.image)
        pictures = [("photograph", photo)]
        for number, (name, place) in enumerate(zip(names, places, strict=True)):
            said = f"{name}: IoU {100 * ious[number]:.0f}" if ious else name
            pictures.append((said, overlay_mask(photo, read_index_png(place(sample)), palette)))
        if sample.mask is not None:
            pictures.append(("truth", overlay_mask(photo, read_mask(sample.mask), palette)))
        tags = [(classes[c], class_colour(c)) for c in sample.tags]
        return GalleryRow(sample.name, tags, [(said, thumbnail(picture)) for said, picture in pictures])

    found: dict[str, list[GalleryRow]] = {}
    measured = [
        (s, tuple(iou_of_tags(read_index_png(place(s)), read_mask(s.mask), s.tags) for place in places))
        for s in there
        if s.mask is not None and s.tags
    ]
    if len(measured) > 2 * SHOWN:
        measured.sort(key=lambda item: item[1][1] - item[1][0])
        found[f"Where {names[1]} gains most (chosen with masks)"] = [row(*m) for m in measured[: -SHOWN - 1 : -1]]
        found[f"Where {names[1]} loses most (chosen with masks)"] = [row(*m) for m in measured[:SHOWN]]
    known = {s.name: ious for s, ious in measured}
    some = at_even_steps(there, 2 * SHOWN)
    found["At even steps through the list"] = [row(sample, known.get(sample.name, ())) for sample in some]
    return found
