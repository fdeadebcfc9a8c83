"""What it costs to accumulate: the time of keeping a step's maps, and of hiding pixels, beside that of the step.

    python benchmarks/accumulation.py DATA --recipe oaa++ --set backbone=mobilenetv2_100 --set weights=FILE
    python benchmarks/accumulation.py DATA --recipe voc/oaa++ --set weights=random

The floor is forward, loss and backward on ready tensors. Accumulating a batch is timed on the maps of that very step,
every tag trusted; the joining of an epoch's maps is spread over its steps. Views are made by threads beside the step,
so that their time is shown per core, with and without looking up what is hidden. All in one process.
"""

import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from common import machine, run_parser
from torch.nn import functional as F

from tagseg.cores import cpu_count
from tagseg.data.geometry import Window
from tagseg.data.loading import TrainingLoader
from tagseg.data.reading import FileFacts, inspect_files, read_dataset
from tagseg.methods.oaa_losses import trusted
from tagseg.methods.table import load_method
from tagseg.networks.precision import default_device, inference_autocast
from tagseg.pipeline.settings import parse_assignments, resolve

STEPS = 8


def main() -> None:
    arguments = run_parser(__doc__).parse_args()
    settings = resolve(arguments.recipe, parse_assignments(arguments.set))
    torch.set_num_threads(cpu_count())
    dataset, facts = inspect_files(read_dataset(arguments.data), FileFacts())
    device, s = default_device(), settings.train
    method = load_method(settings.method)(settings.backbone, settings.weights, dataset.classes, s, 1)
    method.to(device).to(memory_format=torch.channels_last).train()
    sizes = [facts[sample.name].size for sample in dataset.train]
    with tempfile.TemporaryDirectory() as folder:
        accumulated = method.accumulated = method.accumulator(Path(folder), dataset.train, sizes)
        accumulated.begin()
        for index, (tags, grid) in enumerate(zip(accumulated.classes, accumulated.cells, strict=True)):
            for position in range(len(tags)):  # something to hide: the middle of every photograph
                window = Window((grid[0] * 16, grid[1] * 16), (0, 0, grid[1] * 16, grid[0] * 16), flipped=False)
                accumulated.add(index, position, np.pad(np.ones((1, 1)), 1), window)
        accumulated.finish(1)
        loader = TrainingLoader(method.training_views(dataset.train, 0), s.batch_size, 0, threads=1)
        batches = [batch for _, batch in zip(range(STEPS), loader, strict=False)]
        floor, keeping = [], []
        accumulated.begin()
        for batch in [batches[0], *batches]:
            images = batch["image"].to(device).contiguous(memory_format=torch.channels_last)
            tags = batch["tags"].to(device)
            _settle()
            begun = time.perf_counter()
            with inference_autocast(device):
                maps = method.class_maps(images)
                logits = method.tag_logits(maps).float()
                loss = F.multilabel_soft_margin_loss(logits, tags)
            loss.backward()
            method.zero_grad()
            _settle()
            floor.append(time.perf_counter() - begun)
            begun = time.perf_counter()
            method.accumulate(maps, tags, {**batch, "tags": tags}, epoch=1, last=False)
            keeping.append(time.perf_counter() - begun)
            assert trusted(tags, tags).sum() == tags.sum()
        begun = time.perf_counter()
        accumulated.finish(2)
        joining = (time.perf_counter() - begun) / (-(-len(dataset.train) // s.batch_size))
        plain, hiding = (_view_seconds(method, dataset, drop) for drop in ("none", "image"))
    step, keep = sum(floor[1:]) / STEPS, sum(keeping[1:]) / STEPS
    print(f"{arguments.data.name}, {settings.backbone}, batch {s.batch_size} of {s.side} pixels, {machine()}\n")
    print("| | ms | of the step |\n|---|---|---|")
    for name, seconds in (
        ("forward, loss and backward (the floor)", step),
        ("keeping the step's maps", keep),
        ("joining an epoch's maps, per step", joining),
        ("keeping and joining", keep + joining),
        ("a batch of views, one core", plain * s.batch_size),
        ("looking up what is hidden, one core", (hiding - plain) * s.batch_size),
    ):
        print(f"| {name} | {1000 * seconds:.2f} | {seconds / step:.2%} |")
    print(f"\n{accumulated.bytes / 1e6:.2f} MB of cumulative maps for {len(dataset.train)} photographs")


def _view_seconds(method, dataset, drop: str) -> float:
    """Of one view, every one hidden where `drop` says so."""
    method.settings = method.settings.model_copy(update={"drop": drop, "drop_rate": 1.0})
    views = method.training_views(dataset.train, 0)
    count = min(64, len(dataset.train))
    views[1, 0]
    begun = time.perf_counter()
    for index in range(count):
        views[1, index]
    return (time.perf_counter() - begun) / count


def _settle() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
