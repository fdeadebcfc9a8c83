"""How close the stages of a run come to what the networks alone cost on this machine.

    python benchmarks/floor.py DATA --set backbone=mobilenetv2_100 --set weights=FILE

Times forward and backward (training) and forward (mining) on ready tensors, the photographs a second of the real
training views through the same step, and of the real miner, side by side in one process.
"""

import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import torch
from common import machine, run_parser

from tagseg.cores import cpu_count
from tagseg.data.images import read_image
from tagseg.data.loading import TrainingLoader
from tagseg.data.reading import read_dataset
from tagseg.methods.table import load_method
from tagseg.networks.precision import default_device, inference_autocast
from tagseg.pipeline.mining import BATCH, Miner
from tagseg.pipeline.settings import FitSettings, parse_assignments, resolve

STEPS = 12


def main() -> None:
    arguments = run_parser(__doc__).parse_args()
    settings = resolve(arguments.recipe, parse_assignments(arguments.set))
    torch.set_num_threads(cpu_count())
    print(f"{arguments.data.name}, {settings.backbone}, {machine()}\n")
    print("| | photographs a second | of the floor |\n|---|---|---|")
    for name, rates in (("train", _training(arguments.data, settings)), ("mine", _mining(arguments.data, settings))):
        floor, real = rates
        print(f"| {name}: networks alone (the floor) | {floor:.1f} | |")
        print(f"| {name}: as it runs | {real:.1f} | {real / floor:.0%} |")


def _training(data: Path, settings: FitSettings) -> tuple[float, float]:
    dataset, device, s = read_dataset(data), default_device(), settings.train
    method = load_method(settings.method)(settings.backbone, settings.weights, dataset.classes, s, 1)
    method.to(device).to(memory_format=torch.channels_last).train()
    loader = TrainingLoader(method.training_views(dataset.train, 0), s.batch_size, 0, threads=min(8, cpu_count()))

    def step(batch: dict[str, torch.Tensor]) -> None:
        batch = {k: v.to(device) for k, v in batch.items()}
        batch["image"] = batch["image"].contiguous(memory_format=torch.channels_last)
        with inference_autocast(device):
            loss = method.training_step(batch, 0)
        loss.backward()
        method.zero_grad()

    batches = list(islice(loader, STEPS))
    method.log = lambda *_: None
    step(batches[0])
    floor = _rate(lambda: [step(b) for b in batches], STEPS * s.batch_size)
    real = _rate(lambda: [step(b) for b in islice(loader, STEPS)], STEPS * s.batch_size)
    return floor, real


def _mining(data: Path, settings: FitSettings) -> tuple[float, float]:
    dataset, device = read_dataset(data), default_device()
    method = load_method(settings.method)(settings.backbone, "random", dataset.classes, settings.train, 1)
    miner = Miner(method, settings.mine)
    photos = [read_image(dataset.train[0].image)] * BATCH
    sizes = miner.sizes(*photos[0].shape[:2])
    images = [torch.randn(BATCH, 3, *size).contiguous(memory_format=torch.channels_last).to(device) for size in sizes]

    def alone() -> None:
        with torch.inference_mode(), inference_autocast(device):
            for image in images:
                for _ in range(1 + settings.mine.flip):
                    method.class_maps(image)

    alone()
    miner(photos)
    return _rate(lambda: [alone() for _ in range(4)], 4 * BATCH), _rate(
        lambda: [miner(photos) for _ in range(4)], 4 * BATCH
    )


def _rate(work: Callable[[], object], photographs: int) -> float:
    begun = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return photographs / (time.perf_counter() - begun)


if __name__ == "__main__":
    main()
