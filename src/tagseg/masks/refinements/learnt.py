"""What refinements that learn declare, and the settings that they share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat

from tagseg.settings import Count, Norms, ScaleRange, Settings, SidePixels


class LearntSettings(Settings):
    """Settings that PSA and IRN share.

    Thresholds are map values; "auto" lays them around the score that cuts the maps (see
    `tagseg.pipeline.stages.affinity`), because maps of different networks do not compare.
    """

    backbone: str | None = None  # timm's name; None: that of the classifier
    weights: str | None = None  # None: those that the classifier began with, or "pretrained" for another backbone
    epochs: Count
    batch_size: Count
    side: SidePixels = 257  # of the square training window, pixels
    scales: ScaleRange = (0.8, 1.6)  # long side of the photograph over `side`
    norms: Norms = "batch"  # what pretrained batch normalisations normalise by: the batch, or what they know
    optimiser: Literal["adamw", "sgd"]
    learning_rate: PositiveFloat
    head_factor: PositiveFloat = 10.0
    weight_decay: float = Field(ge=0)
    walk_side: SidePixels = 385  # long side at which photographs are seen for the walk; larger ones are brought down
    beta: PositiveFloat
    low: Literal["auto"] | Annotated[float, Field(ge=0, le=1)] = "auto"  # what is below is background
    high: Literal["auto"] | Annotated[float, Field(ge=0, le=1)] = "auto"  # what is above is the object
    log_steps: int = Field(default=8, ge=0, le=16)  # the walk has 2 ** log_steps steps


@dataclass(frozen=True)
class LearntRefinement:
    """A refinement whose network learns from class maps first, and along which they then walk.

    The network stands in the file of the same name in `tagseg.methods.refinements`.

    name: as the chain `masks.refine` has it; it stands first there.
    about: what it does, in half a sentence.
    source: the paper.
    settings: the class of the setting `masks.NAME`.
    default: the value of that setting.
    """

    name: str
    about: str
    source: str
    settings: type[LearntSettings]
    default: LearntSettings
