"""Masks to a trained segmentation network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tagseg.data.dataset import Sample
from tagseg.data.loading import TrainingViews
from tagseg.data.views import ViewSpec
from tagseg.errors import BadInput
from tagseg.methods.base import Method
from tagseg.methods.table import load_method
from tagseg.networks.backbone import Backbone
from tagseg.pipeline.records import EpochRecord
from tagseg.pipeline.settings import FitSettings
from tagseg.pipeline.training import Schedule, train
from tagseg.progress import Reporter
from tagseg.segmentation.deeplab import DeepLab
from tagseg.segmentation.model import SegmentationModel
from tagseg.segmentation.settings import SegmentSettings
from tagseg.segmentation.training import SegmentationTraining

PREDICTION_MARGIN = 1.25  # photographs are segmented at this times the training window, whose mean scale it is


def segments_itself(settings: FitSettings) -> bool:
    """Returns whether the method's own segmentation network is the one to keep.

    Raises:
        BadInput: it is asked for, and there is none.
    """
    has = load_method(settings.method).segments
    if settings.segment.source == "method" and not has:
        raise BadInput(f"segment.source=method: '{settings.method}' does not segment; set segment.source=masks.")
    return has and settings.segment.source != "masks"


def segmentation_backbone(settings: FitSettings) -> tuple[str, str]:
    """Returns the name and the weights of the segmentation network's backbone."""
    own = settings.segment
    name = own.backbone or settings.backbone
    return name, own.weights or (settings.weights if name == settings.backbone else "pretrained")


def own_model(method: Method, classes: tuple[str, ...]) -> SegmentationModel:
    """Returns the network that a method which `segments` has trained beside its classifier, to take home."""
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
) -> tuple[SegmentationModel, list[EpochRecord]]:
    """Puts a DeepLab head on `backbone` and trains both with the mask of every sample.

    Args:
        backbone: with its weights loaded and its frozen parts frozen.
        masks: where the mask of a sample lies.
        seed, views_seed: of the order of the photographs, and of their windows.
        folder, name, reporter, processes: see `tagseg.pipeline.training.train`.

    Returns:
        the model, and the record of its epochs.
    """
    network = DeepLab(backbone, settings.head, len(classes))
    side, _ = backbone.grid.fit(settings.side, settings.side)
    spec = ViewSpec(side=side, scales=settings.scales, seed=views_seed, masks=masks)
    views = TrainingViews(samples, len(classes), backbone, spec)
    schedule = Schedule(settings.epochs, settings.batch_size, seed)
    module = SegmentationTraining(network, settings, schedule.steps(len(samples)))
    epochs = train(module, views, schedule, folder, name, reporter, processes)
    return SegmentationModel(network, classes, round(side * PREDICTION_MARGIN)), epochs
