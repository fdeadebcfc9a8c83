"""Settings of SeeNet (see `tagseg.methods.seenet`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, NonNegativeInt

from tagseg.methods.settings.cam import PooledSettings
from tagseg.settings import Count


class SeeNetSettings(PooledSettings):
    """Settings of SeeNet: those of CAM, and the two thresholds of its masks.

    They are of the training. The published network, which only tests, has 0.8 and 0, with which no sign is turned.
    """

    later: ClassVar[Mapping[str, Any]] = {**PooledSettings.later, "background": "halfway"}

    batch_size: Count = 8
    convolutions: NonNegativeInt = 2  # extra ones, 3x3 and 512 wide, before the class convolution of either classifier
    high: float = Field(default=0.7, ge=0, le=1)  # from this value of the first classifier's map on it is erased
    low: float = Field(default=0.05, ge=0, le=1)  # below it lies background, of which the sign is turned
    # where the second classifier is to find no class: below "low" of its own map, or "halfway" to `high`, as published
    background: Literal["low", "halfway"] = "low"


METHODS = {"seenet": SeeNetSettings}
