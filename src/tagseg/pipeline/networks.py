"""The networks of a run, tried before anything is written."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from tagseg.errors import BadInput
from tagseg.grid import Grid
from tagseg.masks.refinements import FeatureRefinement, LearntRefinement, refinements
from tagseg.methods.refinements import load_network
from tagseg.methods.table import load_method
from tagseg.networks.backbone import Backbone, NoWeights, stand_in
from tagseg.networks.features import Levels
from tagseg.pipeline.attributing import check_attribution
from tagseg.pipeline.run import needs_encoder
from tagseg.pipeline.segmenting import backbone_of
from tagseg.pipeline.settings import FitSettings, segments_itself
from tagseg.pipeline.step_log import check_logger
from tagseg.pipeline.training import check_processes
from tagseg.segmentation.deeplab import DeepLab


def check_networks(settings: FitSettings, classes: Sequence[str]) -> tuple[float, float]:
    """Refuses a backbone, weights or a stride that do not exist or do not fit.

    Returns:
        how many megabytes the two networks will take, with the optimiser's state, twice while it is replaced; and how
        many the stored features of a square photograph.

    Raises:
        BadInput: what does not fit, and how to mend it.
    """
    s = settings
    method: Any = load_method(s.method)
    if s.train.frozen and not method.on_features:
        raise BadInput(f"train.frozen=true: '{s.method}' learns from more than features; set train.frozen=false.")
    if s.accumulate > 1 and method.whole_batches:
        raise BadInput(f"accumulate {s.accumulate}: '{s.method}' needs whole batches; set accumulate=1.")
    for part, network in (("train", s.train), ("train.integral", s.train.successor)):
        _check_held(part, network, s.weights, "--weights")
    features, views = 0.0, s.cache.bits / 8 * (1 + s.cache.mirrored + s.cache.parts)
    if needs_encoder(s):
        encoder = Levels(s.encoder.name, stand_in(s.encoder.name, s.encoder.weights))
        check_cells(encoder.grid, s.encoder.side, s.masks.steps)
        features += _stored(encoder, s.encoder.side) * views
    with _weights_of("weights"):
        classifier = method(s.backbone, stand_in(s.backbone, s.weights), classes, s.train, 1)
    if s.mine.attribution != "own":
        if method.accumulates and s.train.successor is None:
            raise BadInput(
                f"mine.attribution {s.mine.attribution}: the maps of '{s.method}' are those that grew in training; "
                "leave it out, or take another method."
            )
        check_attribution(classifier, s.mine)
    if s.data.texts is not None:
        classifier.read_texts(Path(s.data.texts), stand_in(s.backbone, s.weights))
    segmenting = _check_segmentation(s) if s.segment.network != "decoder" and not segments_itself(s) else 0.0
    check_processes(s.processes)
    check_logger(s.log)
    learnt = refinements().get(str(s.masks.learnt))
    if isinstance(learnt, LearntRefinement):
        own = s.masks.of(learnt.name)
        name, weights = backbone_of(own, s)
        with _weights_of(f"masks.{learnt.name}.weights"):
            load_network(learnt)(name, stand_in(name, weights), own, 1).check_window()
    if s.train.frozen:
        features += _stored(classifier.backbone, s.train.side) * views
    # two checkpoints, each of the weights, two moments, an average, and weights to go back to where there may be some
    held = 8 if classifier.must_fall is None else 10
    return max(held * _megabytes(classifier), _megabytes(classifier) + 7 * segmenting), features


def check_cells(grid: Grid, side: int, steps: Iterable[object]) -> None:
    """Refuses refinements for which a square photograph of the encoder's side has too many cells.

    Args:
        grid: of the encoder.
        side: of photographs as the encoder sees them, pixels.
        steps: of a chain of refinements.

    Raises:
        BadInput: with the largest side that they take.
    """
    height, width = grid.cells(*grid.fit(side, side))
    for step in steps:
        if isinstance(step, FeatureRefinement) and step.most is not None and height * width > step.most:
            largest = math.isqrt(step.most) * grid.stride
            raise BadInput(
                f"encoder.side {side}: {step.name} takes photographs of {step.most} cells at most, and a square one "
                f"has {height} x {width}; set encoder.side={largest} or less."
            )


def networks_of(settings: FitSettings) -> tuple[tuple[str, str], ...]:
    """Returns the name and the weights of every network that a run begins with, each once: the classifier's backbone,
    the encoder where something needs it, and those of what learns after the classifier."""
    s = settings
    found = [(s.backbone, s.weights)]
    if needs_encoder(s):
        found.append((s.encoder.name, s.encoder.weights))
    if s.masks.learnt is not None:
        found.append(backbone_of(s.masks.of(s.masks.learnt), s))
    if s.segment.network != "decoder" and not segments_itself(s) and s.segment.start == "weights":
        found.append(backbone_of(s.segment, s))
    return tuple(dict.fromkeys(found))


@contextmanager
def _weights_of(setting: str) -> Iterator[None]:
    """Says with which setting weights are given, where they must be."""
    try:
        yield
    except NoWeights as error:
        raise BadInput(f"{setting}: {error}") from error


def _megabytes(network: nn.Module) -> float:
    return sum(p.numel() * p.element_size() for p in network.parameters()) / 1e6


def _stored(backbone: Backbone, side: int) -> float:
    """The features of a square photograph, in millions of numbers."""
    height, width = backbone.grid.cells(*backbone.grid.fit(side, side))
    return backbone.channels * height * width / 1e6


def _check_held(part: str, own: Any, weights: str, option: str) -> None:
    """Refuses random weights that would stay as they are; `option` gives others."""
    if weights == "random" and getattr(own, "early_stride", 0) == "all":
        raise BadInput(
            f"{part}.early_stride=all: random weights would never learn anything; give pretrained ones ({option}), or "
            f"set {part}.early_stride=0."
        )


def _check_segmentation(settings: FitSettings) -> float:
    """Refuses what does not fit; returns the megabytes of the networks that segment."""
    name, weights = backbone_of(settings.segment, settings)
    if settings.segment.start == "classifier" and (settings.segment.backbone or settings.backbone) != settings.backbone:
        raise BadInput(
            f"segment.backbone '{name}': it cannot start from the classifier's weights; set segment.start=weights."
        )
    if settings.segment.clip_from is not None and settings.accumulate > 1:
        raise BadInput(f"accumulate {settings.accumulate}: segment.clip_from needs whole batches; set accumulate=1.")
    own = settings.segment
    _check_held("segment", own, weights, "segment.weights" if own.weights else "--weights")
    with _weights_of("segment.weights"):
        backbone = Backbone(name, stand_in(name, weights), own.output_stride)
    return own.networks * _megabytes(DeepLab(backbone, own.head, 1))
