"""Settings of OAA and its heirs (see `tagseg.methods.oaa`)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, NonNegativeInt, model_validator

from tagseg.methods.settings.cam import ClassifierSettings
from tagseg.settings import ScaleRange, SidePixels


class NetworkSettings(ClassifierSettings):
    """Settings of a network whose maps accumulate, or that learns cumulative maps, and of its training.

    `voc/oaa` holds the published ones: VGG-16, three convolutions, SGD by steps. Photographs are shown whole, as
    published: of a crop, what is strongest need not be the object.
    """

    side: SidePixels = 321
    scales: ScaleRange = (1.0, 1.0)
    convolutions: NonNegativeInt = 0  # extra ones, 3x3 and 512 wide, before the class convolution


class IntegralSettings(NetworkSettings):
    """Settings of integral attention learning."""

    loss: Literal["hybrid", "enhancement", "cross-entropy"] = "hybrid"  # the others are for the ablation
    threshold: float = Field(default=0.0, ge=0, lt=1)  # a cell whose cumulative value exceeds it is in N+, else in N-
    compat: Literal["paper", "official"] = "paper"  # see `hybrid_loss`


class AccumulationSettings(NetworkSettings):
    """Settings of a classifier whose maps accumulate: those of its network, and accumulation as published."""

    fusion: Literal["max", "average"] = "max"
    accumulate_from: NonNegativeInt = 1  # the first epoch, counted from 0, whose maps are kept
    drop: Literal["none", "image", "features"] = "none"
    drop_rate: float = Field(default=0.5, ge=0, le=1)  # beta: how often a view loses what was found before
    drop_threshold: float = Field(default=0.6, ge=0, le=1)  # delta: what counts as found, of the round before's map
    compete: bool = False  # whether of several tags only the strongest one keeps a place, before maps are joined

    @property
    def warmup_epochs(self) -> int:
        """Returns how many epochs pass before maps are kept."""
        return self.accumulate_from


class OAALocalisationSettings(AccumulationSettings):
    """Settings of OAA's two branches for localisation; see `IntegralSettings` for the last two."""

    threshold: float = Field(default=0.0, ge=0, lt=1)
    compat: Literal["paper", "official"] = "paper"


class OAASettings(AccumulationSettings):
    """Settings of OAA, and of what comes after it, if anything does.

    What is set for the first network, and not for the second (`integral`), holds for both.
    """

    integral: IntegralSettings | None = None

    @model_validator(mode="before")
    @classmethod
    def _second_is_as_the_first(cls, given: Any) -> Any:
        integral = given.get("integral", cls.model_fields["integral"].default) if isinstance(given, dict) else None
        if isinstance(integral, IntegralSettings):
            integral = integral.model_dump(exclude_unset=True)
        if not isinstance(integral, dict):
            return given
        shared = {name for name in NetworkSettings.model_fields if name in given}
        if "optimiser" in integral:
            shared -= {"hold", "drops"}  # which belong to an optimiser
        return {**given, "integral": {**{name: given[name] for name in shared}, **integral}}

    @property
    def successor(self) -> IntegralSettings | None:
        """Returns the settings of integral attention learning; a network that stays as it is does so in both."""
        if self.integral is None:
            return None
        held = {"early_stride": "all"} if self.early_stride == "all" else {}
        same = {"frozen": True, "side": self.side, "output_stride": self.output_stride} if self.frozen else {}
        return self.integral.model_copy(update={**held, **same})


class OAAPlusPlusSettings(OAASettings):
    """Settings of OAA++: OAA with the attention drop layer."""

    drop: Literal["none", "image", "features"] = "image"


class OAAPlusSettings(OAASettings):
    """Settings of OAA+: OAA with integral attention learning."""

    integral: IntegralSettings | None = IntegralSettings()


class OAAPlusPlusPlusSettings(OAAPlusPlusSettings):
    """Settings of OAA+++: OAA with the attention drop layer and with integral attention learning."""

    integral: IntegralSettings | None = IntegralSettings()


METHODS = {
    "oaa": OAASettings,
    "oaa++": OAAPlusPlusSettings,
    "oaa+": OAAPlusSettings,
    "oaa+++": OAAPlusPlusPlusSettings,
    "oaa-localisation": OAALocalisationSettings,
}
