"""Settings that classifiers with gated pyramid pooling share (see `tagseg.methods.pyramid`)."""

from __future__ import annotations

from pydantic import Field, ValidationInfo, field_validator

from tagseg.methods.settings.cam import ClassifierSettings
from tagseg.settings import Compat, Count


class PyramidSettings(ClassifierSettings):
    """Settings of a classifier with gated pyramid pooling that learns more after a warm-up.

    Thresholds are as published; the schedule is for a few hundred to a few thousand photographs, with a longer warm-up,
    for in few steps classes are hardly learnt. `voc/aeft` and `voc/ktse` hold the published one.
    """

    batch_size: Count = 8
    warmup: float = Field(default=0.6, ge=0, le=1)  # share of the epochs in which only the tags are learnt
    warmup_batch_size: Count | None = None  # photographs a step during these; None: as many as later
    width: Count = 256  # channels between features and class maps
    dropout: float | None = Field(default=None, ge=0, lt=1)  # of the backbone's dropout layers; None: as they are
    compat: Compat = "paper"

    @field_validator("dropout")
    @classmethod
    def _backbone_learns(cls, share: float | None, given: ValidationInfo) -> float | None:
        if share is not None and given.data.get("frozen"):
            raise ValueError("a network whose features were computed once (train.frozen) drops nothing; leave it out")
        if share is not None and given.data.get("early_stride") == "all":
            raise ValueError("a network that stays as it is (train.early_stride=all) drops nothing; set it to null")
        return share

    @property
    def warmup_epochs(self) -> int:
        """Returns how many epochs teach only the tags."""
        return round(self.warmup * self.epochs)

    def batch_size_at(self, epoch: int) -> int:
        """Returns how many photographs a step of an epoch sees, which the end of the warm-up may change."""
        first = self.warmup_batch_size or self.batch_size
        return first if epoch < self.warmup_epochs else self.batch_size
