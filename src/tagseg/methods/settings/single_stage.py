"""Settings that single-stage methods share (see `tagseg.methods.single_stage`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat

from tagseg.settings import Count, EarlyStride, ScaleRange, SidePixels, Statistics, TrainSettings


class SingleStageSettings(TrainSettings):
    """Settings of a transformer that learns to segment while it learns from tags.

    The schedule is for a few hundred to a few thousand photographs.
    """

    later: ClassVar[Mapping[str, Any]] = {"statistics": "backbone", "early_stride": 0}

    epochs: Count = 20
    batch_size: Count = 4
    side: SidePixels = 224
    scales: ScaleRange = (0.6, 1.6)  # long side of the photograph over `side`
    map_scales: tuple[PositiveFloat, ...] = Field(default=(1.0, 0.5, 1.5), min_length=1)  # of the maps that teach
    high: float = Field(default=0.7, ge=0, le=1)  # background scores: above the higher one a pixel is an object,
    low: float = Field(default=0.25, ge=0, le=1)  # below the lower one it is background
    segmentation_weight: NonNegativeFloat = 0.1
    classes_first: float = Field(default=0.1, ge=0, le=1)  # share of the steps in which nothing is segmented
    # how much of it stays in a step, where the maps that teach come from a moving average of the whole network (as in
    # CoSA); 0: they come from the network itself, as published
    teacher_decay: float = Field(default=0.0, ge=0, lt=1)
    compat: Literal["paper", "official"] = "paper"
    statistics: Statistics = "backbone"  # the colours that photographs are normalised by: the weights', or others
    # as of convolutional networks; "all": the pretrained transformer stays as it is, and what stands on it learns
    early_stride: EarlyStride = 0
    learning_rate: PositiveFloat = 6e-5
    head_factor: PositiveFloat = 10.0
    weight_decay: NonNegativeFloat = 0.01
    rise: float = Field(default=0.075, ge=0, lt=1)  # share of the steps in which the rate rises
