"""Settings of AFA (see `tagseg.methods.afa`)."""

from __future__ import annotations

from pydantic import Field, NonNegativeFloat, PositiveFloat

from tagseg.methods.settings.single_stage import SingleStageSettings
from tagseg.settings import Count


class AFASettings(SingleStageSettings):
    """Settings of AFA: thresholds, weights and shares of the schedule as published for VOC."""

    high: float = Field(default=0.55, ge=0, le=1)
    low: float = Field(default=0.35, ge=0, le=1)
    affinity_weight: NonNegativeFloat = 0.1
    spread_from: float = Field(
        default=0.3, ge=0, le=1
    )  # share of the steps after which maps are spread before they teach
    radius: Count = 8  # of the pairs of patches that count, patches
    par_iterations: Count = 10  # 15 on COCO
    power: PositiveFloat = 2.0  # of the affinity along which maps are spread


METHODS = {"afa": AFASettings}
