"""What every refinement makes of the same class maps: mIoU of the pseudo-masks of the training photographs.

    python benchmarks/refinements.py DATA --runs runs/seed0 runs/seed1 runs/seed2 --out FOLDER \\
        --set backbone=NAME --set weights=FILE

RUN is a run of `tagseg fit DATA --until mine` (or later). Each refinement gets a run of its own in FOLDER that begins
from a copy of those maps, so that a stopped benchmark goes on. "Better" and "worse" are the shares of photographs whose
tagged classes gain or lose more than a point of IoU over "none". `--refine` names the refinements, `--picture` writes
one row for each of the photographs named by `--show`.
"""

import argparse
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from common import machine, mean_spread_each, run_parser

import tagseg
from tagseg.data.dataset import Dataset, read_mask
from tagseg.data.images import read_image, read_index_png, voc_palette
from tagseg.data.map_store import MapStore
from tagseg.data.reading import read_dataset
from tagseg.evaluation.iou import Confusion, ThresholdSweep
from tagseg.files import read_json
from tagseg.labels import IGNORE
from tagseg.pipeline.settings import parse_assignments
from tagseg.report.pictures import overlay_map, overlay_mask
from tagseg.report.sheets import contact_sheet, write_picture

REFINEMENTS = (
    "none",
    "par",
    "pamr",
    "crf",
    "superpixels",
    "par+crf",
    "psa",
    "psa+par",
    "psa+crf",
    "irn",
    "irn+par",
    "irn+crf",
)
COLUMNS = ("miou", "precision", "recall", "better", "worse", "seconds")
VARIANTS = {  # name: the refinement, and what else is set
    "crf psa": ("crf", {"masks.crf": "psa"}),
    "crf irn-label": ("crf", {"masks.crf": "irn-label"}),
    "superpixels felzenszwalb": ("superpixels", {"masks.superpixels.kind": "felzenszwalb"}),
    "saliency": ("none", {"masks.saliency": True, "data.saliency": "folder"}),
    "saliency built-in": ("none", {"masks.saliency": True, "data.saliency": "built-in"}),
    "saliency built-in, par": ("par", {"masks.saliency": True, "data.saliency": "built-in"}),
    "saliency, par": ("par", {"masks.saliency": True, "data.saliency": "folder"}),
}


def prepare(run: Path, out: Path, shared: Path | None) -> None:
    """A run that has its maps already, and the affinity of another refinement that begins alike."""
    if not out.exists():
        out.mkdir(parents=True)
        for name in ("run.json", "files.json"):
            shutil.copy(run / name, out / name)
        for name in ("train", "mine"):
            shutil.copytree(run / name, out / name)
    if shared is not None and shared != out and (shared / "affinity").exists() and not (out / "affinity").exists():
        shutil.copytree(shared / "affinity", out / "affinity")


def measure(data: Dataset, folder: Path, before: Path) -> dict[str, Any]:
    """IoU, and the shares of photographs whose tagged classes gain or lose more than a point over those in `before`."""
    confusion, changes = Confusion(len(data.classes)), []
    for sample in (s for s in data.train if s.mask is not None):
        assert sample.mask is not None
        truth, name = read_mask(sample.mask), Path("masks") / f"{sample.name}.png"
        mask = read_index_png(folder / name)
        confusion.add(mask, truth)
        if sample.tags:
            changes.append(
                own_iou(mask, truth, sample.tags) - own_iou(read_index_png(before / name), truth, sample.tags)
            )
    record = read_json(folder / "masks" / "stage.json")
    seconds = record["seconds"]
    if (folder / "affinity").exists():
        seconds += read_json(folder / "affinity" / "stage.json")["seconds"]
    shares = {"better": 100 * np.mean(np.array(changes) > 0.01), "worse": 100 * np.mean(np.array(changes) < -0.01)}
    return {**confusion.scores().table(data.classes).model_dump(), "seconds": seconds, **shares}


def own_iou(mask: np.ndarray, truth: np.ndarray, tags: tuple[int, ...]) -> float:
    known = truth != IGNORE
    pairs = [((mask == tag + 1) & known, truth == tag + 1) for tag in tags]
    return float(np.mean([(a & b).sum() / max(1, (a | b).sum()) for a, b in pairs]))


def oracle(data: Dataset, maps: Path) -> float:
    """The best that one background score could do with these maps."""
    store, sweep = MapStore(maps), ThresholdSweep(len(data.classes))
    for sample in data.train:
        if sample.mask is not None:
            truth = read_mask(sample.mask)
            sweep.add(store.read(sample.name).at(truth.shape), sample.tags, truth)
    return 100 * sweep.oracle()[1]


def picture(data: Dataset, folders: dict[str, Path], names: list[str], path: Path) -> None:
    columns = ["photograph", "class map", *folders, "truth"]
    rows: list[list[np.ndarray | None]] = []
    store = MapStore(next(iter(folders.values())) / "mine")
    shown = [s for s in data.train if s.name in names]
    for sample in shown:
        photo = read_image(sample.image)
        maps = store.read(sample.name).at(photo.shape[:2])
        line: list[np.ndarray | None] = [photo, overlay_map(photo, maps[0])]
        for folder in folders.values():
            mask = read_index_png(folder / "masks" / f"{sample.name}.png")
            line.append(overlay_mask(photo, mask, voc_palette()))
        assert sample.mask is not None
        line.append(overlay_mask(photo, read_mask(sample.mask), voc_palette()))
        rows.append(line)
    write_picture(path, contact_sheet([", ".join(data.classes[t] for t in s.tags) for s in shown], columns, rows))


def main() -> None:
    parser = run_parser(__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--runs", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--refine", nargs="+", default=[*REFINEMENTS, *VARIANTS])
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--show", nargs="+", default=[])
    arguments = parser.parse_args()
    data, common = read_dataset(arguments.data), parse_assignments(arguments.set)
    if arguments.picture:
        folders = {name: arguments.out / f"{name}-{arguments.runs[0].name}" for name in arguments.refine}
        picture(data, folders, arguments.show, arguments.picture)
        return
    found: dict[str, list[dict[str, Any]]] = {}
    for name in arguments.refine:
        refine, extra = VARIANTS.get(name, (name, {}))
        for run in arguments.runs:
            seed = int(run.name.removeprefix("seed"))
            out = arguments.out / f"{name}-{run.name}"
            first = refine.split("+")[0]
            prepare(run, out, arguments.out / f"{first}-{run.name}" if first in ("psa", "irn") else None)
            settings = {**common, "seed": seed, "masks.refine": refine, **extra}
            tagseg.fit(arguments.data, out, recipe=arguments.recipe, settings=settings, until="masks", quiet=True)
            found.setdefault(name, []).append(measure(data, out, arguments.out / f"none-{run.name}"))
        scores = found[name]
        cells = [mean_spread_each([s[key] for s in scores]) for key in COLUMNS]
        if len(found) == 1:
            print(f"{arguments.data.name}, {[r.name for r in arguments.runs]}, {machine()}\n")
            print(
                f"| refinement | mIoU | each | {' | '.join(COLUMNS[1:])} |\n|---|---|---{'|---' * (len(COLUMNS) - 1)}|"
            )
        mean, spread, each = cells[0]
        rest = " | ".join(cell[0] for cell in cells[1:])
        print(f"| {name} | {mean} ± {spread} | {each} | {rest} |", flush=True)
    for first, place in (("none", "mine"), ("psa", "affinity/maps"), ("irn", "affinity/maps")):
        if first in found:
            best = [oracle(data, arguments.out / f"{first}-{run.name}" / place) for run in arguments.runs]
            print(f"oracle score, maps of '{first}': {' ± '.join(mean_spread_each(best)[:2])}", flush=True)


if __name__ == "__main__":
    main()
