"""Settings of MCTformer (see `tagseg.methods.mctformer`), some of which WeakTr shares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field, NonNegativeFloat, PositiveFloat

from tagseg.settings import Count, EarlyStride, ScaleRange, SidePixels, TrainSettings


class ClassTokenSettings(TrainSettings):
    """Settings of a transformer with class tokens.

    The schedule suits a few hundred to a few thousand photographs; recipes of `voc` hold the published ones.
    """

    later: ClassVar[Mapping[str, Any]] = {"early_stride": 0}

    epochs: Count = 20
    batch_size: Count = 8
    side: SidePixels = 224
    scales: ScaleRange = (1.0, 2.0)  # long side of the photograph over `side`
    colour_jitter: bool = False
    drop_path: float = Field(default=0.1, ge=0, lt=1)  # how often the last block is left out while it learns
    # as of convolutional networks; "all": the pretrained transformer stays as it is, and its class tokens learn
    early_stride: EarlyStride = 0
    learning_rate: PositiveFloat = 6e-5
    weight_decay: NonNegativeFloat = 0.05
    rise: float = Field(default=0.083, ge=0, lt=1)  # share of the steps in which the rate rises
    lowest: float = Field(default=0.16, ge=0, le=1)  # share of the rate at which its fall (cosine) ends


class MCTformerSettings(ClassTokenSettings):
    """Settings of MCTformer-V1."""

    attention_blocks: Count = 3  # the last ones, whose attention makes the maps


class MCTformerV2Settings(MCTformerSettings):
    """Settings of MCTformer-V2."""

    head_factor: PositiveFloat = 1.0


class MCTformerPlusSettings(MCTformerV2Settings):
    """Settings of MCTformer+."""

    attention_blocks: Count = 12  # the last ones, whose attention makes the maps
    contrast_weight: NonNegativeFloat = 1.0  # of the loss that keeps class tokens apart
    contrast_blocks: Count = 12  # the last ones, whose class tokens are kept apart
    rank_decay: float = Field(default=0.996, gt=0, le=1)  # of the weights of places, from the strongest on


METHODS = {
    "mctformer-v1": MCTformerSettings,
    "mctformer-v2": MCTformerV2Settings,
    "mctformer+": MCTformerPlusSettings,
}
