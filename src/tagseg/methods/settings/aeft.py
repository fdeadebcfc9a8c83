"""Settings of AEFT (see `tagseg.methods.aeft`)."""

from __future__ import annotations

from pydantic import Field, NonNegativeFloat, PositiveFloat

from tagseg.methods.settings.pyramid import PyramidSettings


class AEFTSettings(PyramidSettings):
    """Settings of AEFT: as published, but for the schedule."""

    erase_threshold: float = Field(default=0.6, ge=0, le=1)  # a class map's value from which a pixel is erased
    attract_weight: NonNegativeFloat = 0.2
    repulse_weight: NonNegativeFloat = 0.15
    background_threshold: float = Field(default=0.2, ge=0, le=1)  # below it a place is background
    margin: PositiveFloat = 0.5  # M: pairs further apart than this (squared) repulse no more


METHODS = {"aeft": AEFTSettings}
