"""PSA in a chain (see `tagseg.methods.refinements.psa`)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat

from tagseg.masks.refinements.learnt import LearntRefinement, LearntSettings
from tagseg.settings import Count, OutputStride


class PSASettings(LearntSettings):
    """Settings of AffinityNet, for a few hundred to a few thousand photographs.

    The paper has 8 epochs of 10,582 photographs, 8 to a batch, in windows of 448 pixels, and an alpha of 32 and 4 for
    the labels, which are thresholds of 0.075 and 0.276 (`voc/psa`).
    """

    epochs: Count = 8
    batch_size: Count = 16
    optimiser: Literal["adamw", "sgd"] = "adamw"
    learning_rate: PositiveFloat = 1e-4
    weight_decay: NonNegativeFloat = 0.01
    output_stride: OutputStride = "auto"  # of the network; published: 8
    radius: float = Field(default=5, ge=2)  # of the pairs learnt from and walked along, cells
    background_alpha: Literal["auto"] | PositiveFloat = "auto"  # of the score that walks along; published: 16
    # a constant score that walks along as the background instead, as in MCTformer's code; None: a power, as published
    background_constant: float | None = Field(default=None, gt=0, lt=1)
    beta: PositiveFloat = 8.0


REFINEMENT = LearntRefinement(
    name="psa",
    about="a network learns which cells are alike, and the maps walk along them",
    source="Ahn and Kwak, CVPR 2018",
    settings=PSASettings,
    default=PSASettings(),
)
