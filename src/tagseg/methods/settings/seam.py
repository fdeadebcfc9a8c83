"""Settings of SEAM (see `tagseg.methods.seam`)."""

from __future__ import annotations

from pydantic import Field, NonNegativeFloat

from tagseg.methods.settings.cam import PooledSettings
from tagseg.settings import Count


class SEAMSettings(PooledSettings):
    """Settings of SEAM: those of CAM, and of its losses.

    Losses are as published; the schedule suits a few hundred to a few thousand photographs. `voc/seam` holds the
    published one.
    """

    batch_size: Count = 8
    rescaling: float = Field(default=0.3, gt=0, le=1)  # how large the second view is, of the first
    equivariance_weight: NonNegativeFloat = 1.0  # of L_ER
    cross_weight: NonNegativeFloat = 1.0  # of L_ECR
    hardest: float = Field(default=0.2, gt=0, le=1)  # share of the values of L_ECR that count, the largest ones
    background_weight: NonNegativeFloat = 1.0  # of the loss that keeps a quarter of every image free (published code)
    dropout: float = Field(default=0.0, ge=0, lt=1)  # of the features that the class convolution sees; published: 0.5


METHODS = {"seam": SEAMSettings}
