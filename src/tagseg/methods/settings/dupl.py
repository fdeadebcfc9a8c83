"""Settings of DuPL (see `tagseg.methods.dupl`)."""

from __future__ import annotations

from pydantic import Field, NonNegativeFloat, PositiveFloat, field_validator

from tagseg.methods.settings.single_stage import SingleStageSettings


class DuPLSettings(SingleStageSettings):
    """Settings of DuPL: weights and thresholds as published for VOC.

    `voc/dupl` and `coco/dupl` hold the published schedules.
    """

    auxiliary_block: int = -3  # whose patches are contrasted; counted from 0, or from the end
    patch_weight: NonNegativeFloat = 0.2  # of patch token contrast
    discrepancy_weight: NonNegativeFloat = 0.1
    consistency_weight: NonNegativeFloat = 0.05
    high_end: float = Field(default=0.55, ge=0, le=1)  # what `high` falls to, along half a cosine
    # classes, by their names, for which it falls to something else
    high_of: dict[str, float] = Field(default_factory=dict)
    # share of the steps from which on labels that the network finds improbable are dropped, and what labels leave open
    # is learnt from confident predictions
    filter_from: float = Field(default=0.4, ge=0, le=1)
    noise_gap: PositiveFloat = 1.0  # of the losses of right and wrong labels, from which on there are wrong ones
    noise_sure: float = Field(default=0.95, ge=0, le=1)  # how probably wrong a label is that is dropped
    confident: float = Field(default=0.9, ge=0, le=1)  # of a prediction that is learnt where there is no label

    @field_validator("teacher_decay")
    @classmethod
    def _no_teacher(cls, decay: float) -> float:
        if decay:
            raise ValueError("the two networks teach each other; leave it at 0")
        return decay


METHODS = {"dupl": DuPLSettings}
