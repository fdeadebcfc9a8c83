"""Settings of EPS (see `tagseg.methods.eps`)."""

from __future__ import annotations

from pydantic import Field

from tagseg.methods.settings.cam import PooledSettings


class EPSSettings(PooledSettings):
    """Settings of EPS: those of CAM, and the two of the saliency loss as published."""

    overlap: float = Field(default=0.4, ge=0, le=1)  # tau: maps that overlap less with saliency are background
    foreground_share: float = Field(
        default=0.5, ge=0, le=1
    )  # lambda: weight of the foreground's map against 1 - background

    @property
    def learns_saliency(self) -> bool:
        """Returns that training needs a saliency map of every photograph, always."""
        return True


METHODS = {"eps": EPSSettings}
