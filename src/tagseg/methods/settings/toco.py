"""Settings of ToCo (see `tagseg.methods.toco`)."""

from __future__ import annotations

from pydantic import Field, NonNegativeFloat, PositiveFloat

from tagseg.methods.settings.single_stage import SingleStageSettings
from tagseg.settings import Count


class ToCoSettings(SingleStageSettings):
    """Settings of ToCo: weights and thresholds as published for VOC.

    `voc/toco` and `coco/toco` hold the published schedules.
    """

    auxiliary_block: int = -3  # whose patches are contrasted; counted from 0, or from the end
    auxiliary_weight: NonNegativeFloat = 1.0
    patch_weight: NonNegativeFloat = 0.2  # of patch token contrast
    class_weight: NonNegativeFloat = 0.5  # of class token contrast
    energy_weight: NonNegativeFloat = 0.05  # of the dense energy
    crops: Count = 8
    crop_share: float = Field(default=3 / 14, gt=0, le=1)  # side of a crop over `side`: 96 of 448
    uncertain: float = Field(default=0.2, ge=0, le=2)  # a crop is positive if its mean region exceeds this
    # share of the steps in which nothing is contrasted, and the maps of the auxiliary classifier teach; 0.15 on COCO
    contrast_from: float = Field(default=0.0, ge=0, le=1)
    temperature: PositiveFloat = 0.5  # 1 on COCO


METHODS = {"toco": ToCoSettings}
