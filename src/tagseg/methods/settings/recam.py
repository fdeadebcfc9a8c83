"""Settings of ReCAM (see `tagseg.methods.recam`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, ValidationInfo, field_validator

from tagseg.methods.settings.cam import PooledSettings


class ReCAMSettings(PooledSettings):
    """Settings of ReCAM: those of CAM, and of what follows it.

    The schedule suits a few hundred to a few thousand photographs; `voc/recam` holds the published one.
    """

    later: ClassVar[Mapping[str, Any]] = {**PooledSettings.later, "products": "signed"}

    hold: float = Field(default=0.67, ge=0, lt=1)  # share of the steps at the full rate; not with a second rate
    warmup: float = Field(default=0.5, ge=0, lt=1)  # share of the epochs in which only the tags are learnt, as by CAM
    softmax_weight: NonNegativeFloat = 1.0  # lambda, of the softmax cross-entropy
    # where the rate begins once more after the warm-up; None: it goes on falling
    second_learning_rate: PositiveFloat | None = None
    softmax_factor: PositiveFloat = 10.0  # with a second rate: how much faster the softmax classifier learns
    # of which weights of both classifiers the products make the maps: "positive" ones, or "signed" ones, as published,
    # where two that speak against a class speak for it
    products: Literal["positive", "signed"] = "positive"

    @field_validator("second_learning_rate")
    @classmethod
    def _begins_once_more(cls, rate: float | None, given: ValidationInfo) -> float | None:
        if rate is not None and given.data.get("optimiser") == "sgd-steps":
            raise ValueError("the rate of train.optimiser=sgd-steps falls where train.drops says, and begins once")
        return rate

    @property
    def warmup_epochs(self) -> int:
        """Returns how many epochs teach only the tags."""
        return round(self.warmup * self.epochs)


METHODS = {"recam": ReCAMSettings}
