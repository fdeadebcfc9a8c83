"""What it is worth to correct a few pseudo-masks: the most doubtful ones, or as many at random.

    python benchmarks/corrections.py DATA --runs FOLDER/seed0 FOLDER/seed1 FOLDER/seed2 --out OUT [--count 20] \\
        --set backbone=NAME --set weights=FILE --set encoder.name=NAME --set encoder.weights=FILE

Each run is one of `tagseg fit` (`benchmarks/frozen.py` makes them), with the same recipe and settings. In a copy of it
the masks of `--count` training photographs are replaced with the true ones, as a person would draw them on the page of
`tagseg app RUN`, and `fit` goes on: so these masks are a person's, and the rest of the run has seen tags alone. Which
photographs these are has nothing to do with true masks. Everything resumes.
"""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from common import machine, mean_spread_each, seeds_parser

import tagseg
from tagseg.app.doubt import doubts
from tagseg.data.dataset import Dataset, MaskFolder, read_mask
from tagseg.data.images import read_index_png, write_mask
from tagseg.data.map_store import MapStore
from tagseg.data.reading import read_dataset
from tagseg.evaluation.iou import iou_of_tags
from tagseg.files import read_json, write_json
from tagseg.pipeline.settings import parse_assignments
from tagseg.progress import Reporter
from tagseg.segmentation.model import load


def ordered(data: Dataset, run: Path, out: Path, seed: int) -> dict[str, list[str]]:
    """The names of the training photographs: the most doubtful first, and at random."""
    kept = out / "doubts.json"
    samples = [s for s in data.train if s.mask is not None and s.tags]
    if not kept.exists():
        with Reporter().bar("doubts", len(samples), "photographs") as advance:
            found = doubts(load(run), samples, MaskFolder(run / "relabel"), MapStore(run / "mine"), advance)
        write_json(kept, {s.name: d.score for s, d in zip(samples, found, strict=True)})
    scores = read_json(kept)
    names = [s.name for s in samples]
    return {
        "doubt": sorted(names, key=lambda name: -scores[name]),
        "random": np.random.default_rng(seed).permutation(names).tolist(),
    }


def one(
    data: Dataset, run: Path, out: Path, names: list[str], recipe: str, settings: dict[str, Any]
) -> dict[str, float]:
    kept = out.with_suffix(".json")
    if kept.exists():
        return read_json(kept)
    by_name = {s.name: s for s in data.train}
    before = [
        iou_of_tags(read_index_png(run / "relabel" / f"{n}.png"), read_mask(by_name[n].mask), by_name[n].tags)
        for n in names
    ]
    if not out.exists():
        shutil.copytree(run, out, ignore=shutil.ignore_patterns("ceiling", "tested", ".lock"))
        for name in names:
            write_mask(out / "relabel" / f"{name}.png", read_mask(by_name[name].mask))
    result = tagseg.fit(data.root, out, recipe=recipe, settings=settings, quiet=True)
    val, train = result.metrics.val, result.metrics.train
    found = {
        "iou_before": 100 * float(np.mean(before)),
        "pseudo_masks": train.pseudo_masks.miou,
        "corrected": train.corrected,
        "plain": val.segmentation.miou,
        "protocol": val.protocol.miou if val.protocol else val.segmentation.miou,
    }
    write_json(kept, found)
    shutil.rmtree(out)
    return found


def main() -> None:
    parser = seeds_parser(__doc__)
    parser.add_argument("--runs", type=Path, nargs="+", required=True)
    parser.add_argument("--count", type=int, default=20)
    parser.set_defaults(recipe="photos/cam")
    arguments = parser.parse_args()
    data, settings = read_dataset(arguments.data), parse_assignments(arguments.set)
    rows = SimpleNamespace(none=[], random=[], doubt=[])
    for number, run in enumerate(arguments.runs):
        out = arguments.out / run.name
        out.mkdir(parents=True, exist_ok=True)
        order = ordered(data, run, out, number)
        chosen = {"none": [], **{how: names[: arguments.count] for how, names in order.items()}}
        for how, names in chosen.items():
            found = one(data, run, out / how, names, arguments.recipe, {**settings, "seed": number})
            getattr(rows, how).append(found)
            print(run.name, how, found, flush=True)
    for how, found in vars(rows).items():
        for key in ("iou_before", "plain", "protocol"):
            mean, spread, each = mean_spread_each([f[key] for f in found])
            print(f"| {how} | {key} | {mean} | {spread} | {each} |")
    print(machine())


if __name__ == "__main__":
    main()
