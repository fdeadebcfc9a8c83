"""Settings of L2G (see `tagseg.methods.l2g`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat

from tagseg.settings import Count, EarlyStride, Norms, OutputStride, ScaleRange, SidePixels, Statistics, TrainSettings


class LocalSettings(TrainSettings):
    """Settings of L2G's local network alone.

    Views, losses and thresholds are as published; the schedule suits a few hundred to a few thousand photographs.
    `voc/l2g` and `coco/l2g` hold the published one.
    """

    later: ClassVar[Mapping[str, Any]] = {"early_stride": 4}

    epochs: Count = 10
    batch_size: Count = 4  # a global network learns slowly: it takes steps rather than photographs
    side: SidePixels = 321  # of the global view, pixels
    scales: ScaleRange = (8 / 7, 8 / 7)  # short side of the photograph over `side`: 512 of 448
    views: Count = 4  # N; 6 for VOC in the English paper and in the code, 4 in the Chinese text
    view_side: SidePixels | None = None  # of a local view, pixels; None: 5/7 of `side`, 320 of 448
    enlarge: float = Field(default=1.0, ge=0.25, le=8)  # how many times larger local views are seen
    # of local views; "uniform": a grid; "corners": the corners first
    placement: Literal["random", "uniform", "corners"] = "random"
    mirror: bool = True
    colour_jitter: bool = False
    saliency: bool = False  # shape transfer
    attention_threshold: float = Field(default=0.1, ge=0, lt=1)  # of B in shape transfer
    transfer_weight: PositiveFloat = 10.0  # lambda
    pixel_correlation: bool = False  # PCM; the code has it, the paper's text does not
    compat: Literal["paper", "official"] = "paper"
    output_stride: OutputStride = "auto"
    # what colours are normalised by: those of the backbone's training, ImageNet's, or COCO's (published code on COCO)
    statistics: Statistics = "backbone"
    # up to the end of the first stage with this stride pretrained layers stay; 0: none; "all": the whole backbone
    early_stride: EarlyStride = 4
    norms: Norms = "batch"  # what pretrained batch normalisations normalise by: the batch, or what they know
    optimiser: Literal["adamw", "sgd-steps", "sgd-poly"] = "adamw"
    learning_rate: PositiveFloat = 1e-4
    head_factor: PositiveFloat = 10.0  # of AdamW; the others have 1, 2, 10 and 20 times the rate
    weight_decay: NonNegativeFloat = 0.01
    hold: float = Field(default=0.0, ge=0, lt=1)  # share of the steps at the full rate, before it falls (poly)
    drop_at: float = Field(default=0.5, gt=0, le=1)  # share of the steps after which "sgd-steps" falls to a tenth
    slow_steps: NonNegativeInt = 0  # first steps of "sgd-poly", at a hundredth of the rate

    @property
    def learns_saliency(self) -> bool:
        """Returns whether shape is learnt from saliency maps."""
        return self.saliency


class L2GSettings(LocalSettings):
    """Settings of L2G: those of the local network, and of the global one."""

    # share of the epochs in which only the local network learns, which the global one then begins as; 0: it begins as
    # it is pretrained, as published
    warmup: float = Field(default=0.4, ge=0, lt=1)
    global_factor: PositiveFloat = 1.0  # of AdamW: how much faster its head learns than the local one's
    background: bool = False  # without saliency: a background channel that learns what no class claims
    shared_backbone: bool = False  # with the local network
    global_classification: bool = False  # for the ablation: it learns the tags too

    @property
    def warmup_epochs(self) -> int:
        """Returns how many epochs teach only the local network."""
        return round(self.warmup * self.epochs)


METHODS = {"l2g": L2GSettings, "l2g-local": LocalSettings}
