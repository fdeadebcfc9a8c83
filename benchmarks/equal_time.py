"""Methods beside each other with the same time to train: what the benchmarks of L2G and KTSE share.

Every row is a run of `tagseg fit` in `--out`, so that a stopped benchmark goes on. Steps of every variant are timed
first; from them follows how many epochs it gets, which `epochs.json` keeps. "seeds" have the background score that
`fit` chooses without masks, "0.25" is the score of much published code, and "oracle" was picked with masks. Recall,
precision and noise are of maps cut at half their maximum (means over classes). Maps are of one scale, without flips.
"tags" is the mean average precision of the tags that the network finds in the photographs that it was trained with.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import drawn_truth, machine, maps_and_truth, mean_spread_each, seeds_parser

import tagseg
from tagseg.cores import cpu_count
from tagseg.data.dataset import Dataset, Sample, multi_hot
from tagseg.data.images import read_image
from tagseg.data.loading import TrainingLoader
from tagseg.data.map_store import MapStore
from tagseg.data.reading import FileFacts, read_dataset
from tagseg.evaluation.coverage import Coverage
from tagseg.evaluation.iou import ThresholdSweep
from tagseg.evaluation.tags import mean_average_precision
from tagseg.files import read_json, write_json
from tagseg.methods.saved import load_saved
from tagseg.methods.table import load_method
from tagseg.networks.precision import default_device, inference_autocast
from tagseg.pipeline.masking import choose_background
from tagseg.pipeline.mining import Miner, mine
from tagseg.pipeline.settings import FitSettings, MaskSettings, MineSettings, known_settings, parse_assignments, resolve
from tagseg.report.pictures import overlay_map
from tagseg.report.sheets import contact_sheet, write_picture

Rows = dict[str, tuple[str, dict[str, Any]]]
COLUMNS = ("seeds", "0.25", "oracle", "recall", "noise", "tags", "epochs", "seconds")


def step_of(data: Dataset, method: str, settings: FitSettings) -> tuple[Callable[[], None], Any]:
    """A training step on one batch, and the network."""
    torch.manual_seed(0)
    network = load_method(method)(settings.backbone, settings.weights, data.classes, settings.train, 100)
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


def arguments_parser(description: str | None, rows: Rows, first: int) -> argparse.ArgumentParser:
    """DATA, `--set`, `--out`, `--seeds`, `--seconds`, `--rows` (by default the first of them) and `--picture`."""
    parser = seeds_parser(description)
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument("--epochs", type=int, help="of every row, instead of as many as fit into the time")
    parser.add_argument("--rows", nargs="+", choices=list(rows), default=list(rows)[:first], metavar="ROW")
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--show", nargs="+", default=[], metavar="NAME", help="photographs of the picture")
    return parser


class EqualTime:
    """Rows of a table that have the same time.

    Args:
        arguments: of `arguments_parser`.
        rows: their methods and settings, by name.
        columns: what is printed of each.
    """

    until = "train"  # the last stage of the runs
    each = "seeds"  # the column whose values are printed one by one

    def __init__(self, arguments: argparse.Namespace, rows: Rows, columns: tuple[str, ...] = COLUMNS) -> None:
        self.arguments, self.rows, self.columns = arguments, rows, columns
        self.given, self.data = parse_assignments(arguments.set), read_dataset(arguments.data)
        self.mine_side = self.given.get("mine.side", MineSettings().side)

    def settings_of(self, row: str) -> tuple[str, dict[str, Any]]:
        """The method of a row and its settings."""
        method, extra = self.rows[row]
        return method, {**known_settings(method, self.given), **extra}

    def trained_as(self, row: str) -> str:
        """The row whose network this one uses."""
        return row

    def mine_settings(self, row: str, network: Any) -> MineSettings:
        del row, network
        return MineSettings(side=self.mine_side, scales=(1.0,), flip=False)

    def seconds_an_epoch(self, method: str, settings: dict[str, Any]) -> float:
        """By a few steps; where a method warms up, the mean of both phases as long as they last."""
        train = resolve(method, settings).train
        warmup = getattr(train, "warmup", None)
        if warmup is not None and 0 < warmup < 1:
            first, later = (self.seconds_an_epoch(method, {**settings, "train.warmup": w}) for w in (1, 0))
            return warmup * first + (1 - warmup) * later
        step, _ = step_of(self.data, method, resolve(method, settings))
        return seconds_each(step) * -(-len(self.data.train) // train.batch_size)

    def epochs_of(self, row: str) -> int:
        """How many epochs fit into the time: at least one; or as many as were asked for."""
        if self.arguments.epochs:
            return self.arguments.epochs
        path, seconds = self.arguments.out / "epochs.json", self.arguments.seconds
        known = read_json(path) if path.exists() else {}
        method, settings = self.settings_of(row)
        settings.pop("train.saliency", None)  # costs next to nothing, and the maps may not be there yet
        name = f"{method} {settings} {seconds}"
        if name not in known:
            known[name] = max(1, round(seconds / self.seconds_an_epoch(method, settings)))
            write_json(path, known)
        return known[name]

    def run_of(self, row: str, seed: int) -> Path:
        name = self.trained_as(row)
        method, settings = self.settings_of(name)
        settings = {**settings, "seed": seed, "train.epochs": self.epochs_of(name)}
        run = self.arguments.out / f"{name.replace(', ', '-').replace(' ', '_')}-seed{seed}"
        tagseg.fit(self.arguments.data, run, recipe=method, settings=settings, until=self.until, quiet=True)
        return run

    def maps_of(
        self, row: str, run: Path, changed: Callable[[Any], Any] = lambda network: network
    ) -> tuple[MapStore, Any]:
        """The maps of the run's network, or of what it is `changed` to, under the name `row`; and that network."""
        network = changed(load_saved(run / "train"))
        facts = FileFacts.read(run / "files.json")
        miner = Miner(network, self.mine_settings(row, network))
        return mine(miner, self.data.train, facts, run / f"maps of {row}", lambda *_: None), network

    def heading(self) -> str:
        a = self.arguments
        each = f"{a.epochs} epochs" if a.epochs else f"{a.seconds} s"
        return f"{a.data.name}, seeds {a.seeds}, {each}, {machine()}\n"

    def table(self) -> None:
        a = self.arguments
        print(self.heading())
        for row in a.rows:  # all before any training warms the machine
            self.epochs_of(self.trained_as(row))
        print(f"| | {' | '.join(self.columns)} | {self.each}, each |", flush=True)
        for row in a.rows:
            self.line(row, [self.numbers(row, seed) for seed in a.seeds])

    def numbers(self, row: str, seed: int) -> dict[str, float]:
        """What the table says of one run."""
        run = self.run_of(row, seed)
        store, network = self.maps_of(row, run)
        record = read_json(run / "train" / "stage.json")
        numbers = {"epochs": float(network.settings.epochs), "seconds": float(record["seconds"])}
        return measured(self.data, store) | numbers

    def line(self, name: str, found: Sequence[dict[str, float]]) -> None:
        """Print a row of the table; `found` are the numbers of every seed."""
        cells = {column: mean_spread_each([f[column] for f in found]) for column in self.columns}
        means = " | ".join(f"{mean} ± {spread}" for mean, spread, _ in cells.values())
        print(f"| {name} | {means} | {cells[self.each][2]} |", flush=True)

    def picture(self) -> None:
        """Photographs, the map of their first tag by every row (first seed), and the truth; below the maps whatever
        else a row has to show."""
        a, data = self.arguments, self.data
        shown = [s for s in data.train if s.name in a.show] or [s for s in data.train if s.tags][:6]
        names: list[str] = []
        pictures: list[list[np.ndarray | None]] = []
        drawn = [self.drawn(row, self.run_of(row, a.seeds[0]), shown) for row in a.rows]
        for number, sample in enumerate(shown):
            truth = drawn_truth(sample)
            for line, cells in enumerate(zip(*(of_row[number] for of_row in drawn), strict=True)):
                names.append(data.classes[sample.tags[0]] if line == 0 else "")
                pictures.append([read_image(sample.image), *cells, truth] if line == 0 else [None, *cells, None])
        write_picture(a.picture, contact_sheet(names, ["photograph", *a.rows, "truth"], pictures))

    def drawn(self, row: str, run: Path, shown: Sequence[Sample]) -> list[list[np.ndarray]]:
        """Of each photograph what stands below each other in the column of a row: the map of its first tag."""
        store, _ = self.maps_of(row, run)
        found = []
        for sample in shown:
            photo = read_image(sample.image)
            maps = store.read(sample.name).at(photo.shape[:2])
            found.append([overlay_map(photo, maps[0])])
        return found


def measured(data: Dataset, store: MapStore) -> dict[str, float]:
    """What a table says of the maps, percentages."""
    sweep, coverage = ThresholdSweep(len(data.classes)), Coverage(len(data.classes))
    said: list[np.ndarray] = []
    tags: list[np.ndarray] = []
    for sample, stored, maps, truth in maps_and_truth(data, store):
        sweep.add(maps, sample.tags, truth)
        coverage.add(maps, sample.tags, truth)
        said.append(stored.tag_probabilities)
        tags.append(multi_hot(sample.tags, len(data.classes)))
    found = coverage.table(data.classes)
    background = choose_background(store, data.train, MaskSettings())
    return {
        "seeds": 100 * sweep.at(background).scores().miou,
        "0.25": 100 * sweep.at(0.25).scores().miou,
        "oracle": 100 * sweep.oracle()[1],
        "recall": found.recall,
        "noise": found.noise,
        "precision": 100 - found.noise,
        "tags": 100 * mean_average_precision(np.array(said), np.array(tags)),
    }
