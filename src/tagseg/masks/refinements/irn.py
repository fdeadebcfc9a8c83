"""IRN in a chain (see `tagseg.methods.refinements.irn`)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat

from tagseg.masks.refinements.learnt import LearntRefinement, LearntSettings
from tagseg.settings import Count, OutputStride


class IRNSettings(LearntSettings):
    """Settings of IRN, for a few hundred to a few thousand photographs.

    The paper has 3 epochs of 10,582 photographs, 32 to a batch, in windows of 512 pixels, and 0.05 and 0.30 as
    thresholds (`voc/irn`).
    """

    epochs: Count = 6
    batch_size: Count = 16
    optimiser: Literal["adamw", "sgd"] = "adamw"  # learns faster; published: SGD at 0.1 without momentum
    learning_rate: PositiveFloat = 1e-3
    head_factor: PositiveFloat = 1.0  # of the displacement branch
    weight_decay: NonNegativeFloat = 1e-4
    output_stride: OutputStride = "auto"
    # of the pairs learnt from, cells; published: 10, in photographs of 125 cells, of which these windows hold half
    radius: float = Field(default=6, ge=2)
    displacement: bool = False
    beta: PositiveFloat = 10.0


REFINEMENT = LearntRefinement(
    name="irn",
    about="a network learns boundaries, and the maps walk between them",
    source="Ahn et al., CVPR 2019",
    settings=IRNSettings,
    default=IRNSettings(),
)
