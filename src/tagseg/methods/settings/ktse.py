"""Settings of KTSE (see `tagseg.methods.ktse`)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat

from tagseg.methods.settings.pyramid import PyramidSettings
from tagseg.settings import Count


class KTSESettings(PyramidSettings):
    """Settings of KTSE: weights and thresholds as published.

    The first three are the parts of the method, for the ablation.
    """

    erasing: Literal["none", "concatenate", "cutmix"] = "concatenate"  # how an image meets its partner
    regularisation: bool = True  # pseudo-labels of its own
    alignment: Literal["none", "global", "local", "both"] = "both"  # with the erased image
    synthesised: Count = 4  # images of a batch that meet their partner
    bidirectional: bool = True  # whether the anchor's maps learn from those of the joined image too
    high: float = Field(default=0.3, ge=0, le=1)  # beta_h: above it a pixel is a class
    low: float = Field(default=0.15, ge=0, le=1)  # beta_l: below it a pixel is background
    inter_weight: NonNegativeFloat = 0.005
    inter_threshold: float = Field(default=0.2, ge=0, le=1)  # a class map's value from which `inter` counts a pixel


METHODS = {"ktse": KTSESettings}
