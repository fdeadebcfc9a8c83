"""Settings of SPG (see `tagseg.methods.spg`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field, NonNegativeFloat, NonNegativeInt, ValidationInfo, field_validator

from tagseg.methods.settings.cam import CAMSettings
from tagseg.settings import Count


class SPGSettings(CAMSettings):
    """Settings of SPG: those of CAM, and thresholds as published."""

    later: ClassVar[Mapping[str, Any]] = {**CAMSettings.later, **{"convolutions": 0, "loss": "tags"}}

    # extra ones, 3x3 and 512 wide, before the class convolution
    convolutions: NonNegativeInt = Field(default=0, validate_default=True)
    width: Count = 512  # channels of the branches
    guidance_weight: NonNegativeFloat = 1.0  # of the three losses beside that of the tags
    # of what teaches each branch, scores above which a pixel is an object, and below which it is background
    attention_high: float = Field(default=0.7, ge=0, le=1)
    attention_low: float = Field(default=0.01, ge=0, le=1)
    deeper_high: float = Field(default=0.5, ge=0, le=1)
    deeper_low: float = Field(default=0.05, ge=0, le=1)
    fused_high: float = Field(default=0.7, ge=0, le=1)
    fused_low: float = Field(default=0.1, ge=0, le=1)

    @field_validator("convolutions")
    @classmethod
    def _guidance_reaches_the_maps(cls, count: int, given: ValidationInfo) -> int:
        if count == 0 and given.data.get("early_stride") == "all":
            raise ValueError(
                "where the backbone stays as it is (train.early_stride=all) nothing that is guided makes the maps; set "
                "it to 1 or more"
            )
        return count


METHODS = {"spg": SPGSettings}
