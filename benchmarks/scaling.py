"""What several processes are worth: measured with two on this machine, and on paper with more.

    python benchmarks/scaling.py DATA --out FOLDER --recipe cam --set backbone=NAME --set weights=FILE \\
        [--epochs 3] [--gbits 10 100 900] [--gpu-ms 60 --loaders 8]

The classifier is trained by one process with all threads and by two that share the cores, in turns (`--rounds`), from
the same seed; photographs a second are the median of the lines of `log.csv` after the first epoch. A step exchanges the
gradients of what learns, four bytes a number: with N processes in a ring each sends 2 (N - 1) / N of them. The loader
alone is timed with one thread, for views of photographs are what every process makes by itself.

On paper a step of N processes takes its share of a step's computing, plus what is exchanged at a given rate, of which
nothing is hidden behind computing here (torch hides most of it); and no less than the loader needs for its share with
`--loaders` threads a process. `--gpu-ms` is what a step of the whole batch takes on one GPU; without it, the measured
step of this machine.
"""

import csv
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import machine, run_parser

import tagseg
from tagseg.data.loading import TrainingLoader
from tagseg.data.reading import read_dataset
from tagseg.methods.saved import load_saved
from tagseg.pipeline.settings import parse_assignments, resolve

LOADED = 64  # photographs that the loader is timed on


def trained(data: Path, out: Path, recipe: str, settings: dict[str, Any], processes: int) -> tuple[float, float]:
    """Photographs a second, and the share of the time spent waiting for them."""
    own = {**settings, "processes": processes, "log.every": 5}
    tagseg.fit(data, out, recipe=recipe, settings=own, until="train", quiet=True)
    with open(out / "train" / "log.csv", newline="", encoding="utf-8") as file:
        lines = [line for line in csv.DictReader(file) if int(line["epoch"]) > 1]
    return tuple(float(np.median([float(line[key]) for line in lines])) for key in ("images_per_second", "waiting"))  # type: ignore[return-value]


def views_a_second(data: Path, run: Path) -> float:
    """What one thread of the loader makes."""
    network = load_saved(run / "train")
    views = network.training_views(read_dataset(data).train[:LOADED], 0)
    batches = iter(TrainingLoader(views, 8, 0, threads=1))
    next(batches)
    begun, seen = time.perf_counter(), 0
    for batch in batches:
        seen += len(batch["tags"])
    return seen / (time.perf_counter() - begun)


def main() -> None:
    parser = run_parser(__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--gbits", type=float, nargs="+", default=[10, 100, 900])
    parser.add_argument("--gpu-ms", type=float)
    parser.add_argument("--loaders", type=int, default=8)
    arguments = parser.parse_args()
    settings = {**parse_assignments(arguments.set), "train.epochs": arguments.epochs}
    found: dict[int, list[tuple[float, float]]] = {1: [], 2: []}
    for turn in range(arguments.rounds):
        for processes in found:
            out = arguments.out / f"{processes}-{turn}"
            found[processes].append(trained(arguments.data, out, arguments.recipe, settings, processes))
    print("| processes | photographs a second | each | waiting |\n|---|---|---|---|")
    rates = {}
    for processes, of_some in found.items():
        each, waiting = zip(*of_some, strict=True)
        rates[processes] = float(np.median(each))
        shown = ", ".join(f"{rate:.2f}" for rate in each)
        print(f"| {processes} | {rates[processes]:.2f} | {shown} | {100 * np.median(waiting):.1f} % |")
    print(f"\nratio {rates[2] / rates[1]:.3f}")
    run = arguments.out / "1-0"
    network, batch = load_saved(run / "train"), resolve(arguments.recipe, settings).train.batch_size
    exchanged = 4 * sum(p.numel() for p in network.parameters() if p.requires_grad)
    loader = views_a_second(arguments.data, run)
    step = arguments.gpu_ms / 1000 if arguments.gpu_ms else batch / rates[1]
    print(f"gradients {exchanged / 1e6:.1f} MB a step; loader {loader:.1f} views a second and thread; ", end="")
    print(f"a step of {batch} photographs {1000 * step:.0f} ms\n")
    print(f"| processes | loader, ms a step | {' | '.join(f'at {g:g} Gbit/s' for g in arguments.gbits)} |")
    print("|" + "---|" * (2 + len(arguments.gbits)))
    for count in (n for n in (1, 2, 4, 8) if batch % n == 0):
        loading = batch / count / (loader * arguments.loaders)
        cells = []
        for gbits in arguments.gbits:
            sent = 0 if count == 1 else 2 * (count - 1) / count * exchanged * 8 / (gbits * 1e9)
            needed = max(step / count + sent, loading)
            cells.append(f"{step / needed:.2f} x")
        print(f"| {count} | {1000 * loading:.1f} | {' | '.join(cells)} |")
    print(f"\n{machine()}")


if __name__ == "__main__":
    main()
