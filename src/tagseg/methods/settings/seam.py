"""Settings of SEAM (see `tagseg.methods.seam`)."""

from __future__ import annotations

from pydantic import Field, NonNegativeFloat

from tagseg.methods.settings.cam import PooledSettings
from tagseg.settings import Count


class SEAMSettings(PooledSettings):
    """Settings of SEAM: those of CAM, and of its losses.

    Losses are as published; schedule and second view suit a few hundred to a few thousand photographs in windows of 160
    to 260 pixels. `voc/seam` holds the published ones.
    """

    batch_size: Count = 8
    # how large the second view is, of the first; published: 0.3, of which a small window has too few cells left
    rescaling: float = Field(default=0.6, gt=0, le=1)
    equivariance_weight: NonNegativeFloat = 1.0  # of L_ER
    cross_weight: NonNegativeFloat = 1.0  # of L_ECR
    hardest: float = Field(default=0.2, gt=0, le=1)  # share of the values of L_ECR that count, the largest ones
    background_weight: NonNegativeFloat = 1.0  # of the loss that keeps a quarter of every image free (published code)
    dropout: float = Field(default=0.0, ge=0, lt=1)  # of the features that the class convolution sees; published: 0.5


METHODS = {"seam": SEAMSettings}
