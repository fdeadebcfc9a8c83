"""Settings of ACoL (see `tagseg.methods.acol`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field, NonNegativeInt

from tagseg.methods.settings.cam import CAMSettings
from tagseg.settings import Count


class ACoLSettings(CAMSettings):
    """Settings of ACoL: those of CAM, and erasing as published."""

    later: ClassVar[Mapping[str, Any]] = {**CAMSettings.later, **{"loss": "tags"}}

    batch_size: Count = 8
    convolutions: NonNegativeInt = 2  # extra ones, 3x3 and 512 wide, before the class convolution of either classifier
    erase_threshold: float = Field(default=0.6, ge=0, le=1)  # of the first classifier's normalised map


METHODS = {"acol": ACoLSettings}
