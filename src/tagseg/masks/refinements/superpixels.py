"""Superpixels in a chain (see `tagseg.masks.superpixels`)."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from tagseg.masks.refinements import Refinement
from tagseg.settings import Settings


class SuperpixelSettings(Settings):
    """Settings of superpixels: their kind, and about how many there are."""

    kind: Literal["slic", "felzenszwalb"] = "slic"
    count: int = Field(default=200, ge=2)


def refine(photo: np.ndarray, scores: np.ndarray, settings: SuperpixelSettings = SuperpixelSettings()) -> np.ndarray:
    """Gives every superpixel the mean of its scores."""
    from tagseg.masks.superpixels import refine_superpixels

    return refine_superpixels(photo, scores, kind=settings.kind, count=settings.count)


REFINEMENT = Refinement(
    name="superpixels",
    about="one mean score for each superpixel, SLIC or Felzenszwalb",
    source="Achanta et al., TPAMI 2012; Felzenszwalb and Huttenlocher, IJCV 2004",
    refine=refine,
    settings=SuperpixelSettings,
    default=SuperpixelSettings(),
)
