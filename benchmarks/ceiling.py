"""What the same segmentation network reaches when it is taught by the true masks: the ceiling of a weak method.

    python benchmarks/ceiling.py DATA --out runs/ceiling --seeds 0 1 2 --set backbone=mobilenetv2_100 --set weights=FILE

This is the only place where true masks meet training, and nothing else reads what it writes. It trains as the
`segment` stage does, only that the backbone starts from the given weights.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from machine import machine

from tagseg.data.dataset import Dataset, Sample, read_mask
from tagseg.data.loading import TrainingViews, cpu_count
from tagseg.data.reading import read_dataset
from tagseg.evaluation.iou import Confusion
from tagseg.networks.backbone import Backbone
from tagseg.pipeline.fit import PREDICTION_MARGIN
from tagseg.pipeline.progress import Reporter
from tagseg.pipeline.settings import FitSettings, parse_assignments, resolve
from tagseg.pipeline.training import Schedule, train
from tagseg.segmentation.deeplab import DeepLab
from tagseg.segmentation.model import SegmentationModel
from tagseg.segmentation.training import SegmentationTraining


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--recipe", default="cam")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    settings = resolve(arguments.recipe, parse_assignments(arguments.set))
    data = read_dataset(arguments.data)
    torch.set_num_threads(cpu_count())
    begun = time.perf_counter()
    values = np.array([supervised(data, settings, seed, arguments.out / f"seed{seed}") for seed in arguments.seeds])
    print(f"{arguments.data.name}, seeds {arguments.seeds}, {machine()}, {time.perf_counter() - begun:.0f} s in all")
    spread = values.std(ddof=1) if len(values) > 1 else float("nan")
    each = ", ".join(f"{v:.1f}" for v in values)
    print(f"fully supervised, evaluation: mIoU {values.mean():.1f} +- {spread:.1f} ({each})")


def supervised(data: Dataset, settings: FitSettings, seed: int, folder: Path) -> float:
    """mIoU (percent) on the evaluation photographs after training with the true masks of the training photographs."""
    s = settings.segment
    torch.manual_seed(seed)
    backbone = Backbone(settings.backbone, settings.weights, s.output_stride)
    backbone.freeze(early=backbone.pretrained, norms=backbone.pretrained)
    side, _ = backbone.fit_size(s.side, s.side)
    samples = tuple(sample for sample in data.train if sample.mask is not None)
    views = TrainingViews(
        samples, len(data.classes), backbone, side=side, scales=s.scales, seed=seed, masks=lambda sample: sample.mask
    )
    schedule = Schedule(s.epochs, s.batch_size, seed)
    network = DeepLab(backbone, s.head, len(data.classes))
    folder.mkdir(parents=True, exist_ok=True)
    train(
        SegmentationTraining(network, s, schedule.steps(len(samples))), views, schedule, folder, "ceiling", Reporter()
    )
    model = SegmentationModel(network, data.classes, round(side * PREDICTION_MARGIN))
    confusion = Confusion(len(data.classes))
    for sample in data.val:
        confusion.add(model.predict(sample.image), _truth(sample))
    return 100 * confusion.scores().miou


def _truth(sample: Sample) -> np.ndarray:
    assert sample.mask is not None, f"{sample.image} has no mask"
    return read_mask(sample.mask)


if __name__ == "__main__":
    main()
