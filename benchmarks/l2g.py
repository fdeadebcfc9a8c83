"""Tables 1 and 2 of L2G: what local views, the transfer to a global network, and saliency are worth, with the same time
to train for every row.

    python benchmarks/l2g.py DATA --out FOLDER --seconds 240 --set backbone=NAME --set weights=FILE
    python benchmarks/l2g.py DATA --out FOLDER --seconds 240 --set ... --seeds 0 --rows "L2G" "L2G, 2 views"
    python benchmarks/l2g.py DATA --out FOLDER --set ... --cost
    python benchmarks/l2g.py DATA --out FOLDER --seconds 240 --set ... --picture l2g.jpg --show NAME ...

Every row is a run of `tagseg fit` in FOLDER, so that a stopped benchmark goes on. Steps of every variant are timed
first; from them follows how many epochs it gets, which FOLDER/epochs.json keeps. "seeds" have the
background score that `fit` chooses without masks, "0.25" is the score of the published code, and "oracle" was picked
with masks. Recall and noise are of maps cut at half their maximum (means over classes). Maps are of one scale, without
flips. "tags" is the mean average precision of the tags that the network finds in the photographs that it was trained
with. "sliding window" is the network of "CAM", looking through a window of the size of a local view.

`--cost` prints what a step of L2G takes beside one of plain CAM on the same global view, with how many views, and how
much memory.
"""

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import machine, maps_and_truth, mean_spread_each, seeds_parser

import tagseg
from tagseg.data.dataset import Dataset, multi_hot, read_mask
from tagseg.data.files import read_json, write_json
from tagseg.data.images import read_image
from tagseg.data.loading import TrainingLoader, cpu_count
from tagseg.data.map_store import MapStore
from tagseg.data.reading import read_dataset, remembered
from tagseg.evaluation.coverage import Coverage
from tagseg.evaluation.iou import ThresholdSweep
from tagseg.evaluation.tags import mean_average_precision
from tagseg.methods.base import load_method
from tagseg.networks.precision import default_device, inference_autocast
from tagseg.pipeline.classifiers import load_network
from tagseg.pipeline.masking import choose_background
from tagseg.pipeline.mining import Miner, maps_at, mine
from tagseg.pipeline.settings import FitSettings, MaskSettings, MineSettings, parse_assignments, resolve
from tagseg.report.pictures import colour_mask, overlay_map
from tagseg.report.sheets import contact_sheet, write_picture

SHAPE = {"train.saliency": True}
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "CAM": ("cam", {}),
    "sliding window": ("cam", {}),
    "local network": ("l2g-local", {}),
    "L2G": ("l2g", {}),
    "local network, shape": ("l2g-local", SHAPE),
    "L2G, shape": ("l2g", SHAPE),
    "L2G, shape, classification on both": ("l2g", {**SHAPE, "train.global_classification": True}),
    "L2G, shape, shared backbone": ("l2g", {**SHAPE, "train.shared_backbone": True}),
    **{f"L2G, shape, {n} views": ("l2g", {**SHAPE, "train.views": n}) for n in (1, 2, 8)},
    "L2G, shape, uniform views": ("l2g", {**SHAPE, "train.placement": "uniform"}),
    "L2G, shape, small views": ("l2g", {**SHAPE, "share": 0.54}),
    "L2G, shape, large views": ("l2g", {**SHAPE, "share": 0.89}),
    "L2G, shape, PCM": ("l2g", {**SHAPE, "train.pixel_correlation": True}),
    "L2G, shape, as in the code": ("l2g", {**SHAPE, "train.compat": "official", "train.attention_threshold": 0.001}),
    "L2G, as in the code": ("l2g", {"train.compat": "official"}),
    "L2G, background channel": ("l2g", {"train.background": True}),
    "L2G, PCM": ("l2g", {"train.pixel_correlation": True}),
}
COLUMNS = ("seeds", "0.25", "oracle", "recall", "noise", "tags", "epochs", "seconds")


def known_to(method: str, given: dict[str, Any]) -> dict[str, Any]:
    """What is given, less what is for the training of others."""
    known = load_method(method).Settings.model_fields
    return {k: v for k, v in given.items() if not k.startswith("train.") or k.removeprefix("train.") in known}


def settings_of(row: str, given: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The method of a row and its settings."""
    method, extra = ROWS[row]
    given = known_to(method, given)
    if "share" in extra:
        side = given.get("train.side", load_method(method).Settings.model_fields["side"].default)
        extra = {**SHAPE, "train.view_side": round(extra["share"] * side)}
    return method, {**given, **extra}


def step_of(data: Dataset, method: str, settings: FitSettings) -> tuple[Callable[[], None], Any]:
    """A training step on one batch, and the network."""
    torch.manual_seed(0)
    network = load_method(method)(settings.backbone, settings.weights, len(data.classes), settings.train, 100)
    network.log = lambda *_: None
    network.train().to(default_device(), memory_format=torch.channels_last)
    optimiser = network.configure_optimizers()["optimizer"]
    loader = TrainingLoader(network.training_views(data.train, 0), settings.train.batch_size, 0, threads=cpu_count())
    batch = {k: v.to(network.device) for k, v in next(iter(loader)).items()}

    def step() -> None:
        with inference_autocast(network.device):
            loss = network.training_step(batch, 0)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if network.device.type == "cuda":
            torch.cuda.synchronize()

    return step, network


def seconds_each(step: Callable[[], None], times: int = 3) -> float:
    step()
    found = []
    for _ in range(times):
        begun = time.perf_counter()
        step()
        found.append(time.perf_counter() - begun)
    return min(found)


def epochs_of(row: str, data: Dataset, given: dict[str, Any], seconds: float, path: Path) -> int:
    """How many epochs fit into `seconds`: at least one."""
    known = read_json(path) if path.exists() else {}
    method, settings = settings_of(row, given)
    settings.pop("train.saliency", None)  # costs next to nothing, and the maps may not be there yet
    name = f"{method} {settings} {seconds}"
    if name not in known:
        step = seconds_each(step_of(data, method, resolve(method, settings))[0])
        steps = -(-len(data.train) // resolve(method, settings).train.batch_size)
        known[name] = max(1, round(seconds / (step * steps)))
        write_json(path, known)
    return known[name]


def run_of(row: str, seed: int, arguments: Any, data: Dataset, given: dict[str, Any]) -> Path:
    name = "CAM" if row == "sliding window" else row
    method, settings = settings_of(name, given)
    epochs = epochs_of(name, data, given, arguments.seconds, arguments.out / "epochs.json")
    run = arguments.out / f"{name.replace(', ', '-').replace(' ', '_')}-seed{seed}"
    settings = {**settings, "seed": seed, "train.epochs": epochs}
    tagseg.fit(arguments.data, run, recipe=method, settings=settings, until="train", quiet=True)
    return run


def maps_of(row: str, run: Path, data: Dataset, mine_side: int) -> tuple[MapStore, Any]:
    network = load_network(run)
    side = network.settings.side
    window = round(side * 5 / 7) if row == "sliding window" else None
    how = MineSettings(side=mine_side, scales=(1.0,), flip=False, window=window, window_stride=round(side / 7))
    facts = remembered(run / "files.json")
    return mine(Miner(network, how), data.train, facts, run / f"maps of {row}", lambda *_: None), network


def measured(data: Dataset, store: MapStore, corners: bool) -> dict[str, float]:
    sweep, coverage = ThresholdSweep(len(data.classes)), Coverage(len(data.classes))
    said: list[np.ndarray] = []
    tags: list[np.ndarray] = []
    for sample, stored, maps, truth in maps_and_truth(data, store, corners):
        sweep.add(maps, sample.tags, truth)
        coverage.add(maps, sample.tags, truth)
        said.append(stored.tag_probabilities)
        tags.append(multi_hot(sample.tags, len(data.classes)))
    found = coverage.as_dict(data.classes)
    background = choose_background(store, data.train, MaskSettings())
    return {
        "seeds": 100 * sweep.at(background).scores().miou,
        "0.25": 100 * sweep.at(0.25).scores().miou,
        "oracle": 100 * sweep.oracle()[1],
        "recall": found["recall"],
        "noise": found["noise"],
        "tags": 100 * mean_average_precision(np.array(said), np.array(tags)),
    }


def table(arguments: Any, data: Dataset, given: dict[str, Any]) -> None:
    print(f"{arguments.data.name}, seeds {arguments.seeds}, {arguments.seconds} s, {machine()}\n")
    for row in arguments.rows:  # all before any training warms the machine
        epochs_of(row, data, given, arguments.seconds, arguments.out / "epochs.json")
    print(f"| | {' | '.join(COLUMNS)} | each |", flush=True)
    mine_side = given.get("mine.side", MineSettings().side)
    for row in arguments.rows:
        found = []
        for seed in arguments.seeds:
            run = run_of(row, seed, arguments, data, given)
            store, network = maps_of(row, run, data, mine_side)
            record = read_json(run / "train" / "stage.json")
            numbers = {"epochs": float(network.settings.epochs), "seconds": float(record["seconds"])}
            found.append(measured(data, store, network.backbone.corners) | numbers)
        cells = [mean_spread_each([f[column] for f in found]) for column in COLUMNS]
        print(f"| {row} | {' | '.join(f'{m} ± {d}' for m, d, _ in cells)} | {cells[0][2]} |", flush=True)


def picture(arguments: Any, data: Dataset, given: dict[str, Any]) -> None:
    """Photographs, the map of their first tag by every row (first seed), and the truth."""
    shown = [s for s in data.train if s.name in arguments.show] or [s for s in data.train if s.tags][:6]
    rows: list[list[np.ndarray | None]] = [[read_image(s.image)] for s in shown]
    mine_side = given.get("mine.side", MineSettings().side)
    for name in arguments.rows:
        run = run_of(name, arguments.seeds[0], arguments, data, given)
        store, network = maps_of(name, run, data, mine_side)
        for sample, cells in zip(shown, rows, strict=True):
            photo = cells[0]
            assert photo is not None
            maps = maps_at(store.read(sample.name), photo.shape[:2], network.backbone.corners)
            cells.append(overlay_map(photo, maps[0]))
    for sample, cells in zip(shown, rows, strict=True):
        assert sample.mask is not None
        cells.append(colour_mask(read_mask(sample.mask), np.array([[0] * 3, *[[255] * 3] * 254, [128] * 3])))
    names = [data.classes[s.tags[0]] for s in shown]
    write_picture(arguments.picture, contact_sheet(names, ["photograph", *arguments.rows, "truth"], rows))


def cost(arguments: Any, given: dict[str, Any]) -> None:
    """One line per row, each in a process of its own, for its memory."""
    print(machine())
    print("| | ms a step | of CAM's | memory above the start, MB |")
    base = None
    for name, method, extra in (
        ("CAM, the same global view", "cam", []),
        ("local network, 4 views", "l2g-local", []),
        *((f"L2G, {n} views", "l2g", [f"train.views={n}"]) for n in (1, 2, 4, 8)),
        ("L2G, 4 views, shape", "l2g", ["train.saliency=true"]),
        ("L2G, 4 views, PCM", "l2g", ["train.pixel_correlation=true"]),
    ):
        sets = [f"{k}={v}" for k, v in known_to(method, given).items()]
        command = [sys.executable, __file__, str(arguments.data), "--out", str(arguments.out), "--step", method]
        for pair in sets + extra:
            command += ["--set", pair]
        milliseconds, memory = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-2:]
        base = base or float(milliseconds)
        print(f"| {name} | {milliseconds} | {float(milliseconds) / base:.2f} | {memory} |", flush=True)


def one_step(method: str, data: Dataset, given: dict[str, Any]) -> None:
    def peak() -> float:
        if torch.cuda.is_available():
            return torch.cuda.max_memory_allocated() / 1e6
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3

    settings = resolve(method, given)
    step, _ = step_of(data, method, settings)
    before = peak()
    milliseconds = 1000 * seconds_each(step)
    print(f"{milliseconds:.0f} {peak() - before:.0f}")


def main() -> None:
    parser = seeds_parser(__doc__)
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS)[:6], metavar="ROW")
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--show", nargs="+", default=[])
    parser.add_argument("--cost", action="store_true")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    given = parse_assignments(arguments.set)
    data = read_dataset(arguments.data)
    if arguments.step:
        one_step(arguments.step, data, given)
    elif arguments.cost:
        cost(arguments, given)
    elif arguments.picture:
        picture(arguments, data, given)
    else:
        table(arguments, data, given)


if __name__ == "__main__":
    main()
