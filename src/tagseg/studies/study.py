"""`study`: an experiment over a data set, with a table and a picture at its end."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tagseg.cores import cpu_count
from tagseg.data.dataset import Dataset, Sample, read_mask
from tagseg.data.reading import read_dataset
from tagseg.data.regions import read_regions
from tagseg.errors import BadInput, explain_full_disk, nearest
from tagseg.explaining.source import check_source
from tagseg.explaining.table import check_attributions
from tagseg.labels import IGNORE
from tagseg.masks.boxes import ILSVRC_THRESHOLD
from tagseg.progress import Reporter
from tagseg.report.curves import line_figure
from tagseg.report.pictures import draw_boxes, overlay_map, thumbnail
from tagseg.report.sheets import contact_sheet, rendered, write_picture
from tagseg.settings import Compat
from tagseg.studies.table import STUDIES
from tagseg.studies.tables import Findings, Table, write_tables
from tagseg.version import __version__

if TYPE_CHECKING:
    from tagseg.explaining.classifiers import Classifier
    from tagseg.studies.cases import Case
    from tagseg.studies.material import Material

METHODS = ("gradcam", "gradcam++", "layercam", "layercam-normal", "normgrad")


@dataclass(frozen=True)
class StudyResult:
    """The outcome of a study: its tables, and where they and the picture lie."""

    tables: list[Table]
    text: Path
    picture: Path


def study(
    name: str,
    data: str | os.PathLike[str],
    model: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    weights: str = "pretrained",
    methods: Sequence[str] = METHODS,
    layers: str | Sequence[str] = "stages",
    split: str = "val",
    limit: int | None = None,
    side: int | None = None,
    threshold: float = ILSVRC_THRESHOLD,
    against: str | os.PathLike[str] | None = None,
    top: int = 3,
    regions: str | os.PathLike[str] | None = None,
    compat: Compat = "paper",
    quiet: bool = False,
) -> StudyResult:
    """Measures maps of the true tags over a data set, or what a classifier's channels do.

    The truth is for measuring only.

    Args:
        name: one of `tagseg.studies.table.STUDIES`, which says what each measures.
        data: see `tagseg.data.reading.read_dataset`.
        model, weights, side: see `tagseg.explaining.classifiers.load_classifier`.
        out: folder for `NAME.md`, `NAME.json` and `NAME.png`.
        methods, layers: see `tagseg.explain`.
        split: `"val"` or `"train"`.
        limit: how many tagged photographs are used, spread over the split; None for all, or as many as the study
            takes if nothing is said.
        threshold: of boxes, as a fraction of the map's maximum.
        against: of the study "sanity": a run of the same network that was taught wrong labels.
        top: of studies of channels: how many of each decomposition are looked at, and decomposed again.
        regions: of the study "context": the folder of PASCAL-Context, which labels everything in VOC's photographs;
            None: the data set's own masks do.
        compat: of the study "boxes": "official" goes as LayerCAM's published script does, by ten crops of every
            photograph.

    Raises:
        BadInput: in one sentence, what does not fit.
    """
    if name not in STUDIES:
        known = list(STUDIES)
        raise BadInput(f"study '{name}' does not exist{nearest(name, known) or '.'} Known: {', '.join(known)}.")
    if split not in ("train", "val"):
        raise BadInput(f"split '{split}': give train or val.")
    if top < 1:
        raise BadInput(f"top {top}: give at least one channel.")
    if compat == "official" and not STUDIES[name].published:
        able = ", ".join(study for study, found in STUDIES.items() if found.published)
        raise BadInput(f"study '{name}' has no published script to follow; leave compat out (those that have: {able}).")
    if regions is not None and name != "context":
        raise BadInput(f"study '{name}' has no use for regions; leave them out, or take the study context.")
    labels = None if regions is None else read_regions(Path(regions))
    check_attributions(methods)
    if "guided-backprop" in methods:
        raise BadInput("guided-backprop has no layers to compare; use it with 'tagseg explain'.")
    check_source(model, weights, side)
    wanted, out = STUDIES[name], Path(out)
    dataset = read_dataset(Path(data))
    samples = _samples(dataset, split, wanted.few if limit is None else limit)
    import torch  # only now

    from tagseg.explaining.classifiers import load_classifier
    from tagseg.studies.material import Material

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(cpu_count())
    classifier = load_classifier(model, weights, side)
    if not wanted.any_classes:
        _check_classes(dataset, classifier)
    with Reporter(quiet).bar(name, len(samples), "photographs") as advance, explain_full_disk(out):
        material = Material(
            classifier=classifier,
            classes=dataset.classes,
            samples=samples,
            methods=tuple(methods),
            layers=layers if isinstance(layers, str) else list(layers),
            threshold=threshold,
            against=None if against is None else load_classifier(against, side=side),
            top=top,
            regions=labels,
            compat=compat,
            advance=advance,
        )
        begun = time.perf_counter()
        found = wanted.run(material)
        facts = {
            "study": name,
            "data": Path(data).name,
            "split": split,
            "photographs": len(samples),
            "model": Path(model).name,
            "side": classifier.side,
            "seconds": round(time.perf_counter() - begun, 1),
            "machine": f"{cpu_count()} cores, {classifier.device.type}, torch {torch.__version__}",
            "version": __version__,
        }
        write_tables(out, name, found.tables, facts)
        picture = write_picture(out / f"{name}.png", _picture(found, material, name))
    return StudyResult(found.tables, out / f"{name}.md", picture)


def _check_classes(dataset: Dataset, classifier: Classifier) -> None:
    if dataset.classes != classifier.classes and len(dataset.classes) != len(classifier.classes):
        raise BadInput(
            f"the model has {len(classifier.classes)} classes and {dataset.root} has {len(dataset.classes)}; "
            "give a classifier of this data set, for example a run of 'tagseg fit DATA --until train'."
        )


def _samples(dataset: Dataset, split: str, limit: int | None) -> list[Sample]:
    tagged = [sample for sample in getattr(dataset, split) if sample.tags]
    if not tagged:
        raise BadInput(f"{dataset.root}: no photograph of the split '{split}' has a tag; choose the other split.")
    if limit is not None and limit < 1:
        raise BadInput(f"limit {limit}: give at least 1.")
    if limit is None or limit >= len(tagged):
        return tagged
    return [tagged[round(i * (len(tagged) - 1) / max(1, limit - 1))] for i in range(limit)]


def _picture(found: Findings, material: Material, name: str) -> np.ndarray:
    """The lines of the study; or photographs as rows, and as columns the truth, every method's deepest layer, and
    LayerCAM's layers and fusion."""
    from tagseg.studies.cases import variants

    if found.lines or not material.pictured:
        figure = line_figure(found.lines, x=found.x, y=found.y)
        figure.set_dpi(160)
        return rendered(figure)
    cases, classifier = material.pictured, material.classifier
    rows, pictures = [], []
    columns: list[str] = []
    for case in cases:
        ways = variants(case)
        deepest = [w for w in ways if w.numbers == (len(case.maps[w.method].maps) - 1,)]
        main = "layercam" if "layercam" in case.maps else next(iter(case.maps))
        own = [
            w
            for w in ways
            if w.method == main and w not in deepest and len(w.numbers) in (1, len(case.maps[main].maps))
        ]
        shown = list(dict.fromkeys([*deepest, *own]))
        small = thumbnail(case.photo, 220)
        size = (small.shape[0], small.shape[1])
        truth = _truth(case, small)
        columns = ["truth", *(w.short for w in shown)]
        rows.append(classifier.classes[case.sample.tags[0]])
        pictures.append([truth, *(overlay_map(small, w.maps(case, size)[0]) for w in shown)])
    return contact_sheet(rows, columns, pictures, title=name, cell=1.5)


def _truth(case: Case, small: np.ndarray) -> np.ndarray:
    tag, factor = case.sample.tags[0], small.shape[0] / case.photo.shape[0]
    drawn = small.copy()
    if case.sample.mask is not None:
        mask = read_mask(case.sample.mask)
        rows = np.arange(small.shape[0]) * mask.shape[0] // small.shape[0]
        columns = np.arange(small.shape[1]) * mask.shape[1] // small.shape[1]
        inside = mask[rows][:, columns]
        drawn[(inside != tag + 1) | (inside == IGNORE)] //= 3
    edges = [
        ((b.x0 * factor, b.y0 * factor, b.x1 * factor, b.y1 * factor), "", (255, 220, 0))
        for b in case.sample.boxes
        if b.tag == tag
    ]
    return draw_boxes(drawn, edges)
