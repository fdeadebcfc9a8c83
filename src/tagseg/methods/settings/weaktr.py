"""Settings of WeakTr (see `tagseg.methods.weaktr`)."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveFloat

from tagseg.methods.settings.mctformer import ClassTokenSettings
from tagseg.settings import Count


class WeakTrSettings(ClassTokenSettings):
    """Settings of WeakTr: those of a transformer with class tokens, and of the network that weighs its heads."""

    head_factor: PositiveFloat = 1.0
    reduction: Count = 8  # how much narrower it is inside than there are heads
    feature_reduction: Count = 8  # and than a head's features are wide
    summary: Literal["max", "mean"] = "max"  # over tokens, of what it sees of every head


METHODS = {"weaktr": WeakTrSettings}
