"""Settings of CAM (see `tagseg.methods.cam`)."""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from tagseg.settings import OutputStride, ScaleRange, SidePixels, TrainSettings


class CAMSettings(TrainSettings):
    """Settings of CAM for a few hundred to a few thousand photographs.

    The paper fine-tunes an ImageNet classifier.
    """

    epochs: PositiveInt = 10
    batch_size: PositiveInt = 16
    side: SidePixels = 257  # of the square training window, pixels
    scales: ScaleRange = (0.8, 1.6)  # long side of the photograph over `side`
    output_stride: OutputStride = "auto"
    optimiser: Literal["adamw", "sgd"] = "adamw"
    learning_rate: PositiveFloat = 1e-4
    head_factor: PositiveFloat = 10.0
    weight_decay: NonNegativeFloat = 0.01


METHODS = {"cam": CAMSettings}
