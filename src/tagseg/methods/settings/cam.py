"""Settings of CAM (see `tagseg.methods.cam`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, ValidationInfo, field_validator

from tagseg.settings import (
    Count,
    EarlyStride,
    Norms,
    OutputStride,
    Pooling,
    ScaleRange,
    SidePixels,
    StepShare,
    TrainSettings,
)


class ClassifierSettings(TrainSettings):
    """Settings that CAM and its heirs share, for a few hundred to a few thousand photographs."""

    later: ClassVar[Mapping[str, Any]] = {"early_stride": 4, "drops": None}

    epochs: Count = 10
    batch_size: Count = 16
    side: SidePixels = 257  # of the square training window, pixels
    scales: ScaleRange = (0.8, 1.6)  # long side of the photograph over `side`
    colour_jitter: bool = False
    output_stride: OutputStride = "auto"
    # what pretrained batch normalisations normalise by: the batch, or what they know; of "statistics" their factors and
    # offsets learn, of "frozen" nothing
    norms: Norms = "batch"
    # up to the end of the first stage with this stride pretrained layers stay; 0: none; "all": the whole backbone
    early_stride: EarlyStride = 4
    # "adamw" and "sgd" fall by poly decay; "sgd-steps", Caffe's, is Nesterov SGD by steps, whose norms and biases learn
    # twice as fast
    optimiser: Literal["adamw", "sgd", "sgd-steps"] = "adamw"
    learning_rate: PositiveFloat = 1e-4
    head_factor: PositiveFloat = 10.0
    weight_decay: NonNegativeFloat = 0.01
    hold: float = Field(default=0.0, ge=0, lt=1)  # share of the steps at the full rate, before it falls (poly)
    # shares of the steps after each of which the rate of "sgd-steps" falls to a tenth; null: after two thirds
    drops: tuple[StepShare, ...] | None = None

    @field_validator("colour_jitter")
    @classmethod
    def _colours_are_seen(cls, jitter: bool, given: ValidationInfo) -> bool:
        if jitter and given.data.get("frozen"):
            raise ValueError("features of photographs as they are were computed once (train.frozen)")
        return jitter

    @field_validator("drops")
    @classmethod
    def _falls_by_steps(cls, drops: Any, given: ValidationInfo) -> Any:
        if drops is not None and given.data.get("optimiser") != "sgd-steps":
            raise ValueError("only the rate of train.optimiser=sgd-steps falls like that; others have train.hold")
        return drops


class PooledSettings(ClassifierSettings):
    """Settings of a classifier that pools its class maps to tag scores."""

    pooling: Pooling = "mean"  # of the maps to tag scores; "top": their strongest fifth, "lse": log-sum-exp


class CAMSettings(PooledSettings):
    """Settings of CAM. The paper fine-tunes an ImageNet classifier, and pools by the mean."""

    # what tells the tags: "tags" asks of every class whether it is there; "softmax" which one is, for photographs with
    # one tag each (ILSVRC, CUB); several share alike
    loss: Literal["tags", "softmax"] = "tags"


METHODS = {"cam": CAMSettings}
