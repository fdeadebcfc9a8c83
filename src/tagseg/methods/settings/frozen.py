"""Settings of the one-stage method on a frozen transformer (see `tagseg.methods.frozen`)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat

from tagseg.settings import Count, Pooling, SidePixels, TrainSettings


class FrozenSettings(TrainSettings):
    """Settings of a frozen transformer with a light decoder, for a few hundred to a few thousand photographs.

    WeCLIP trains 30,000 steps of 4 photographs at 2e-4 (2e-3 the decoder), decay 0.01.
    """

    epochs: Count = 20
    batch_size: Count = 16
    side: SidePixels = 448  # long side of a photograph, pixels
    frozen: Literal[True] = True
    # where class maps come from: a classifier that learns the tags, or the text embeddings of `data.texts`
    maps: Literal["tags", "texts"] = "tags"
    pooling: Pooling = "top"
    width: Count = 256  # channels of the decoder
    layers: Count = 3  # of its transformer
    high: float = Field(default=0.55, ge=0, le=1)  # background scores: above the higher one a pixel is an object,
    low: float = Field(default=0.35, ge=0, le=1)  # below the lower one it is background
    classes_first: float = Field(default=0.25, ge=0, le=1)  # share of the steps in which nothing is segmented
    radius: Count = 8  # of the pairs of cells whose affinity is learnt, cells
    affinity_weight: NonNegativeFloat = 0.1
    teacher_from: float = Field(default=0.6, ge=0, le=1)  # share of the steps after which the teacher is asked too
    teacher_decay: float = Field(default=0.99, ge=0, lt=1)  # of the moving average that the teacher is
    confidence: float = Field(default=0.75, ge=0, le=1)  # probability above which its label counts
    learning_rate: PositiveFloat = 1e-3
    weight_decay: NonNegativeFloat = 0.01


METHODS = {"frozen": FrozenSettings}
