"""Settings of ADL (see `tagseg.methods.adl`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from tagseg.methods.settings.cam import CAMSettings
from tagseg.settings import Count


class ADLSettings(CAMSettings):
    """Settings of ADL: those of CAM, and dropping as published."""

    later: ClassVar[Mapping[str, Any]] = {**CAMSettings.later, **{"layers": ()}}

    drop_rate: float = Field(default=0.75, ge=0, le=1)  # of the steps that hide what is strongest; others stress it
    drop_threshold: float = Field(default=0.8, ge=0, le=1)  # of the strongest place, above which a place is hidden
    stages: Count = 3  # how many of the last stages are changed, at their ends
    layers: tuple[str, ...] = ()  # what is changed instead: modules of the backbone, by name


METHODS = {"adl": ADLSettings}
