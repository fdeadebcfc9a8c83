"""CAM, OAA and its variants on the same photographs, with the same network and budget: what the maps of the training
photographs cover, and their mIoU as seeds.

    python benchmarks/oaa.py DATA --out FOLDER --set backbone=NAME --set weights=FILE
    python benchmarks/oaa.py DATA --out FOLDER --set ... --seeds 0 --variants average features delta-0.4
    python benchmarks/oaa.py DATA --out FOLDER --set ... --curve curve.png --classes
    python benchmarks/oaa.py DATA --out FOLDER --set ... --picture growth.jpg --show NAME ...

Every variant is a run of `tagseg fit` in FOLDER, so that a stopped benchmark goes on; variants that differ in the
second network only begin from a copy of the first. CAM is the final classifier of OAA, whose training nothing else
touches. Maps are of one scale, as they accumulate, or averaged over the scales and flips of `fit` (`--set mine.side`).
"drop network" are the maps of OAA++'s final classifier. "seeds" have the background score that `fit` chooses without
masks, "with saliency" are the published pseudo-masks, where the data set has saliency maps. Recall and noise are of
maps cut at half their maximum (means over classes); "added" is which share of the pixels that they cover beyond those
of "cam" belongs to the object. `--curve` draws recall and noise over the training of OAA and OAA++, `--classes` prints
the recall of each class, `--picture` shows cumulative maps as they grow. A number of epochs, learning rate, side, batch
size, stride or head factor set for `train` is that of the second network too, unless that is set.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from common import drawn_truth, machine, maps_and_truth, mean_spread_each, seeds_parser

import tagseg
from tagseg.data.accumulator import Accumulator
from tagseg.data.dataset import Dataset, read_saliency
from tagseg.data.images import read_image
from tagseg.data.map_store import MapStore
from tagseg.data.reading import FileFacts, read_dataset
from tagseg.evaluation.coverage import Coverage
from tagseg.evaluation.iou import Confusion, ThresholdSweep
from tagseg.files import read_json
from tagseg.masks.background import label_mask
from tagseg.masks.saliency import ignore_conflicts, oaa_scores
from tagseg.methods.saved import load_saved
from tagseg.pipeline.accumulating import store_accumulated
from tagseg.pipeline.masking import choose_background
from tagseg.pipeline.measure import measure_rounds
from tagseg.pipeline.mining import Miner, mine
from tagseg.pipeline.settings import MaskSettings, MineSettings, parse_assignments
from tagseg.report.curves import line_figure
from tagseg.report.pictures import overlay_map
from tagseg.report.sheets import contact_sheet, rendered, write_picture

MULTI = ", scales and flips"
MAIN = ("cam", "oaa", "oaa++", "drop network", "oaa+", "oaa+++", *(n + MULTI for n in ("cam", "oaa+", "oaa+++")))
OF_CLASSIFIER = {"cam": "oaa", "drop network": "oaa++"}  # rows read from the classifier of another run
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in ("oaa", "oaa++", "oaa+", "oaa+++", "oaa-localisation")},
    "average": ("oaa", {"train.fusion": "average"}),
    "crops": ("oaa", {"train.scales": [0.8, 1.6]}),
    "features": ("oaa++", {"train.drop": "features"}),
    **{f"delta-{d}": ("oaa++", {"train.drop_threshold": d}) for d in (0.1, 0.4, 0.5, 0.7, 0.8)},
    **{f"beta-{b}": ("oaa++", {"train.drop_rate": b}) for b in (0.1, 0.3, 0.7, 0.9)},
    **{f"loss-{name}": ("oaa+", {"train.integral.loss": name}) for name in ("enhancement", "cross-entropy")},
    "loss-official": ("oaa+", {"train.integral.compat": "official"}),
    **{f"threshold-{t}": ("oaa+", {"train.integral.threshold": t}) for t in (0.1, 0.2, 0.3)},
}
COLUMNS = ("seeds", "oracle", "with saliency", "recall", "noise", "added", "seconds")


def run_variant(data: Path, out: Path, name: str, seed: int, settings: dict[str, Any]) -> Path:
    method, extra = VARIANTS[name]
    settings = {**settings, **extra, "seed": seed}
    run = out / f"{name}-seed{seed}"
    if method in ("oaa+", "oaa+++"):
        first = out / f"{'oaa' if method == 'oaa+' else 'oaa++'}-seed{seed}"
        if not run.exists() and first.exists():
            shutil.copytree(first, run, ignore=shutil.ignore_patterns("mine", "maps of *", ".lock"))
    else:
        settings = {key: value for key, value in settings.items() if not key.startswith("train.integral.")}
    tagseg.fit(data, run, recipe=method, settings=settings, until="integral", quiet=True)
    return run


def opened(run: Path, data: Dataset) -> tuple[Any, Accumulator]:
    """The trained classifier of a run, and its cumulative maps."""
    method, facts = load_saved(run / "train"), FileFacts.read(run / "files.json")
    sizes = [facts[sample.name].size for sample in data.train]
    return method, method.accumulator(run / "train" / "accumulated", data.train, sizes)


def store_of(name: str, run: Path, data: Dataset, settings: dict[str, Any]) -> MapStore:
    """The maps of a row of the table."""
    network, accumulated = opened(run, data)
    folder = run / f"maps of {name}"
    row = name.removesuffix(MULTI)
    if (run / "integral").exists():
        network = load_saved(run / "integral")
    elif row not in OF_CLASSIFIER:
        return store_accumulated(accumulated, data.train, len(data.classes), folder, lambda *_: None)
    how = MineSettings(side=network.settings.side, scales=(1.0,), flip=False)
    if row != name:
        how = MineSettings(**{k.removeprefix("mine."): v for k, v in settings.items() if k.startswith("mine.")})
    facts = FileFacts.read(run / "files.json")
    return mine(Miner(network, how), data.train, facts, folder, lambda *_: None)


def measured(data: Dataset, store: MapStore) -> dict[str, Any]:
    size = len(data.classes)
    sweep, coverage, salient = ThresholdSweep(size), Coverage(size), Confusion(size)
    for sample, _, maps, truth in maps_and_truth(data, store):
        sweep.add(maps, sample.tags, truth)
        coverage.add(maps, sample.tags, truth)
        if sample.saliency is not None and sample.tags:
            saliency = read_saliency(sample, truth.shape).astype(np.float32) / 255
            mask = label_mask(oaa_scores(maps, saliency), sample.tags)
            salient.add(ignore_conflicts(mask, maps, saliency), truth)
    background = choose_background(store, data.train, MaskSettings())
    seeds = 100 * sweep.at(background).scores().miou
    with_saliency = 100 * salient.scores().miou
    return {
        **dict(coverage.table(data.classes)),
        "seeds": seeds,
        "oracle": 100 * sweep.oracle()[1],
        "with saliency": with_saliency,
        "counts": coverage.counts.sum(axis=0),
    }


def _run_of(name: str) -> str:
    row = name.removesuffix(MULTI)
    return OF_CLASSIFIER.get(row, row)


def seconds_of(run: Path) -> float:
    return sum(read_json(p)["seconds"] for s in ("train", "integral") if (p := run / s / "stage.json").exists())


def curve(runs: dict[str, Path], data: Dataset, path: Path) -> None:
    lines = {}
    for name, run in runs.items():
        rounds = [r for r in measure_rounds(data, opened(run, data)[1]) if r.recall]
        print(f"\n{name} | " + " | ".join(str(r.round) for r in rounds))
        for key in ("recall", "noise"):
            lines[f"{key}, {name}"] = ([r.round for r in rounds], [getattr(r, key) for r in rounds])
            print(f"{key} | " + " | ".join(f"{getattr(r, key):.1f}" for r in rounds))
    write_picture(path, rendered(line_figure(lines, x="epochs", y="%")))


def growth(runs: dict[str, Path], data: Dataset, names: list[str], path: Path) -> None:
    """Photographs, the cumulative maps of their first tag in time, and the truth."""
    shown = [(i, s) for i, s in enumerate(data.train) if s.name in names or (not names and s.tags)][:6]
    found = {name: opened(run, data)[1] for name, run in runs.items()}
    last = next(iter(found.values())).rounds()[-1]
    rounds = sorted({2, 3, (last + 3) // 2, last})
    rows: list[list[np.ndarray | None]] = []
    for index, sample in shown:
        photo = read_image(sample.image)
        row: list[np.ndarray | None] = [photo]
        for accumulated in found.values():
            for number in rounds:
                maps = accumulated.grid.resize(accumulated.maps(index, number)[:1], photo.shape[:2])
                row.append(overlay_map(photo, maps[0]))
        rows.append([*row, drawn_truth(sample)])
    columns = ["photograph", *(f"{name}, {r}" for name in found for r in rounds), "truth"]
    write_picture(path, contact_sheet([data.classes[s.tags[0]] for _, s in shown], columns, rows))


def main() -> None:
    parser = seeds_parser(__doc__)
    parser.add_argument("--variants", nargs="+", choices=[*MAIN, *VARIANTS], default=list(MAIN), metavar="NAME")
    parser.add_argument("--curve", type=Path)
    parser.add_argument("--classes", action="store_true")
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--show", nargs="+", default=[])
    arguments = parser.parse_args()
    data, settings = read_dataset(arguments.data), parse_assignments(arguments.set)
    if arguments.curve or arguments.picture:
        runs = {name: arguments.out / f"{name}-seed{arguments.seeds[0]}" for name in ("oaa", "oaa++")}
        if arguments.curve:
            curve(runs, data, arguments.curve)
        if arguments.picture:
            growth(runs, data, arguments.show, arguments.picture)
    found: dict[str, list[dict[str, Any]]] = {}
    bases: dict[int, np.ndarray] = {}
    print(f"{arguments.data.name}, seeds {arguments.seeds}, {machine()}\n")
    for name in arguments.variants:
        for seed in arguments.seeds:
            run = run_variant(arguments.data, arguments.out, _run_of(name), seed, settings)
            scores = measured(data, store_of(name, run, data, settings))
            hit, _, covered = scores["counts"] - bases.setdefault(seed, scores["counts"])
            scores |= {"seconds": seconds_of(run), "added": 100 * hit / covered if covered > 0 else float("nan")}
            found.setdefault(name, []).append(scores)
        cells = [mean_spread_each([s[key] for s in found[name]]) for key in COLUMNS]
        row = [f"{m} ± {d}" for m, d, _ in cells]
        print(f"| {name} | {' | '.join(row)} | {cells[0][2]} |", flush=True)
    print(f"\n(columns: {', '.join(COLUMNS)}, and the seeds of each)")
    if arguments.classes:
        print(f"\n| recall | {' | '.join(found)} |")
        for name in data.classes:
            values = [[s["classes"][name].recall for s in scores] for scores in found.values()]
            print(f"| {name} | {' | '.join(f'{np.mean([v for v in x if v is not None]):.1f}' for x in values)} |")


if __name__ == "__main__":
    main()
