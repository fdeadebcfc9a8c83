"""Settings of KTSE (see `tagseg.methods.ktse`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, ValidationInfo, field_validator

from tagseg.methods.settings.pyramid import PyramidSettings
from tagseg.settings import Count

Share = Annotated[float, Field(ge=0, le=1)]


class KTSESettings(PyramidSettings):
    """Settings of KTSE: weights and thresholds as in the paper; a moving average makes the pseudo-labels.

    The first three are the parts of the method, for the ablation.
    """

    later: ClassVar[Mapping[str, Any]] = {**PyramidSettings.later, "stop_runaway": False}

    # how an image meets its partner
    erasing: Literal["none", "concatenate", "cutmix"] = Field(default="concatenate", validate_default=True)
    regularisation: bool = True  # pseudo-labels of its own
    # with the erased image
    alignment: Literal["none", "global", "local", "both"] = Field(default="both", validate_default=True)
    synthesised: Count = 4  # images of a batch that meet their partner, where erasing is on
    bidirectional: bool = True  # whether the anchor's maps learn from those of the joined image (erasing) too
    # whom an image meets where erasing is on; "itself", another view of it, is the control
    partner: Literal["other", "itself"] = "other"
    # beta_h: above it a pixel is a class, and beta_l: below it a pixel is background; "auto": around the value that
    # cuts the maps in two, for maps that are wider than the published values are for
    high: Share | Literal["auto"] = 0.3
    low: Share | Literal["auto"] = 0.15
    # from which value of the strongest map a pixel is erased (alignment); "auto": halfway between the value that cuts
    # the maps in two and their maximum, which is the published one where that value is 0.2
    erase_threshold: Share | Literal["auto"] = 0.6
    # of the pixels of classes in L_ce, beside those of the background, either of which are averaged apart (0.0125
    # in the published code); None: one mean over all pixels (paper)
    class_weight: NonNegativeFloat | None = None
    single_tag: bool = False  # whether pixels of classes count only in photographs with a single tag (published code)
    # how much stays in a step of the moving average of the network, whose maps make the pseudo-labels, without which
    # labels and maps may run away from each other; 0: its own maps do, as published
    teacher_decay: float = Field(default=0.99, ge=0, lt=1)
    # whether a training whose maps agree less with their labels than when these set in is ended, with the network that
    # the warm-up led to; as published it never is
    stop_runaway: bool = True
    inter_weight: NonNegativeFloat = 0.005
    inter_threshold: float = Field(default=0.2, ge=0, le=1)  # a class map's value from which `inter` counts a pixel

    @field_validator("erasing", "alignment")
    @classmethod
    def _images_are_seen(cls, part: str, given: ValidationInfo) -> str:
        if part != "none" and given.data.get("frozen"):
            raise ValueError(
                "it shows the network other images, and features of photographs as they are were computed once "
                "(train.frozen); set it to none"
            )
        return part


METHODS = {"ktse": KTSESettings}
