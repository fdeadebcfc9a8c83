"""Masks to a trained segmentation network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tagseg.data.dataset import Sample
from tagseg.data.loading import TrainingViews
from tagseg.errors import BadInput
from tagseg.methods.base import load_method
from tagseg.networks.backbone import Backbone
from tagseg.progress import Reporter
from tagseg.pipeline.settings import FitSettings
from tagseg.pipeline.training import Schedule, train
from tagseg.segmentation.deeplab import DeepLab
from tagseg.segmentation.model import SegmentationModel
from tagseg.segmentation.training import SegmentationTraining, SegmentSettings

PREDICTION_MARGIN = 1.25  # photographs are segmented at this times the training window, whose mean scale it is


def segments_itself(settings: FitSettings) -> bool:
    """Whether the method's own segmentation network is the one to keep.

    Raises:
        BadInput: it is asked for, and there is none.
    """
    has = hasattr(load_method(settings.method), "segment")
    if settings.segment.source == "method" and not has:
        raise BadInput(f"segment.source=method: '{settings.method}' does not segment; set segment.source=masks.")
    return has and settings.segment.source != "masks"


def own_model(method: Any, classes: tuple[str, ...]) -> SegmentationModel:
    """The network that a method has trained beside its classifier, to take home.

    Args:
        method: with `backbone`, `decoder`, the head's name as `decoder_name`, and the `side` of its training window.
    """
    backbone = Backbone(method.backbone.name, "random", method.backbone.output_stride)
    backbone.load_state_dict(method.backbone.state_dict())
    network = DeepLab(backbone, method.decoder_name, len(classes))
    network.head.load_state_dict(method.decoder.state_dict())
    return SegmentationModel(network, classes, round(method.side * PREDICTION_MARGIN))


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
