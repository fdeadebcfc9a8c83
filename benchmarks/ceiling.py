"""What the same segmentation network reaches when it is taught by the true masks: the ceiling of a weak method.

    python benchmarks/ceiling.py DATA --out runs/ceiling --seeds 0 1 2 --set backbone=mobilenetv2_100 --set weights=FILE

This is the only place where true masks meet training, and nothing else reads what it writes. It trains as the
`segment` stage does, only that the backbone starts from the given weights.
"""

import time
from pathlib import Path

import numpy as np
import torch
from common import machine, mean_spread_each, seeds_parser

from tagseg.cores import cpu_count
from tagseg.data.dataset import Dataset, Sample, read_mask
from tagseg.data.reading import read_dataset
from tagseg.evaluation.iou import Confusion
from tagseg.networks.backbone import Backbone
from tagseg.pipeline.segmenting import teach
from tagseg.pipeline.settings import FitSettings, parse_assignments, resolve
from tagseg.pipeline.training import Place
from tagseg.progress import Reporter


def main() -> None:
    arguments = seeds_parser(__doc__).parse_args()
    settings = resolve(arguments.recipe, parse_assignments(arguments.set))
    data = read_dataset(arguments.data)
    torch.set_num_threads(cpu_count())
    begun = time.perf_counter()
    values = [supervised(data, settings, seed, arguments.out / f"seed{seed}") for seed in arguments.seeds]
    print(f"{arguments.data.name}, seeds {arguments.seeds}, {machine()}, {time.perf_counter() - begun:.0f} s in all")
    mean, spread, each = mean_spread_each(values)
    print(f"fully supervised, evaluation: mIoU {mean} +- {spread} ({each})")


def supervised(data: Dataset, settings: FitSettings, seed: int, folder: Path) -> float:
    """mIoU (percent) on the evaluation photographs after training with the true masks of the training photographs."""

    def made() -> Backbone:
        backbone = Backbone(settings.backbone, settings.weights, settings.segment.output_stride)
        if backbone.pretrained:
            backbone.freeze(settings.segment.early_stride, "frozen")
        return backbone

    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    model, _ = teach(
        made,
        tuple(sample for sample in data.train if sample.mask is not None),
        lambda sample: sample.mask,
        data.classes,
        settings.segment,
        Place(folder, "ceiling", Reporter()),
        seed=seed,
        views_seed=seed,
    )
    confusion = Confusion(len(data.classes))
    for sample in data.val:
        confusion.add(model.predict(sample.image), _truth(sample))
    return 100 * confusion.scores().miou


def _truth(sample: Sample) -> np.ndarray:
    assert sample.mask is not None, f"{sample.image} has no mask"
    return read_mask(sample.mask)


if __name__ == "__main__":
    main()
