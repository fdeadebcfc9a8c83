"""Settings of SIPE (see `tagseg.methods.sipe`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import NonNegativeFloat

from tagseg.methods.settings.cam import PooledSettings
from tagseg.settings import EarlyStride


class SIPESettings(PooledSettings):
    """Settings of SIPE: those of CAM, and of prototypes.

    The schedule suits a few hundred to a few thousand photographs; `voc/sipe` holds the published one.
    """

    later: ClassVar[Mapping[str, Any]] = {**PooledSettings.later, "early_stride": 8}

    early_stride: EarlyStride = 8
    consistency_weight: NonNegativeFloat = 1.0  # of the general-specific consistency
    # what a class has to be stronger than: a score, which is chosen later, or before that, in every view, also the
    # background's own map (the published code decides by it after it has added all views)
    background: Literal["score", "prototype"] = "score"


METHODS = {"sipe": SIPESettings}
