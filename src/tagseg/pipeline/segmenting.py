"""Masks to a trained segmentation network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tagseg.data.dataset import Sample
from tagseg.data.loading import TrainingViews
from tagseg.networks.backbone import Backbone
from tagseg.pipeline.progress import Reporter
from tagseg.pipeline.training import Schedule, train
from tagseg.segmentation.deeplab import DeepLab
from tagseg.segmentation.model import SegmentationModel
from tagseg.segmentation.training import SegmentationTraining, SegmentSettings

PREDICTION_MARGIN = 1.25  # photographs are segmented at this times the training window, whose mean scale it is


def teach(
    backbone: Backbone,
    samples: tuple[Sample, ...],
    masks: Callable[[Sample], Path],
    classes: tuple[str, ...],
    settings: SegmentSettings,
    *,
    seed: int,
    views_seed: int,
    folder: Path,
    name: str,
    reporter: Reporter,
    processes: int = 1,
) -> tuple[SegmentationModel, list[dict[str, float]]]:
    """Put a DeepLab head on `backbone` and train both with the mask of every sample.

    Args:
        backbone: with its weights loaded and its frozen parts frozen.
        masks: where the mask of a sample lies.
        seed, views_seed: of the order of the photographs, and of their windows.
        folder, name, reporter, processes: see `tagseg.pipeline.training.train`.

    Returns:
        the model, and the record of its epochs.
    """
    network = DeepLab(backbone, settings.head, len(classes))
    side, _ = backbone.fit_size(settings.side, settings.side)
    views = TrainingViews(
        samples, len(classes), backbone, side=side, scales=settings.scales, seed=views_seed, masks=masks
    )
    schedule = Schedule(settings.epochs, settings.batch_size, seed)
    module = SegmentationTraining(network, settings, schedule.steps(len(samples)))
    epochs = train(module, views, schedule, folder, name, reporter, processes)
    return SegmentationModel(network, classes, round(side * PREDICTION_MARGIN)), epochs
