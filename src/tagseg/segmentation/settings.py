"""Settings of the segmentation network and of its training."""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeFloat, PositiveFloat

from tagseg.networks.settings import DecoderSettings
from tagseg.settings import Count, Norms, OutputStride, ScaleRange, Settings, SidePixels

HeadName = Literal["aspp", "largefov", "tokens"]


class SegmentSettings(Settings):
    """Settings of the segmentation network and its training; the recipes hold the published ones."""

    # "masks": trained on the pseudo-masks; "method": the method's own, where it learns to segment while it learns from
    # tags (ToCo and its heirs), and what follows does not matter; "auto": the method's own if it has one
    source: Literal["auto", "masks", "method"] = "auto"
    # "deeplab": a network that is trained as a whole; "decoder": a small one on the features of the frozen encoder,
    # with settings of its own, and what follows them does not matter
    network: Literal["deeplab", "decoder"] = "deeplab"
    decoder: DecoderSettings = DecoderSettings()
    backbone: str | None = None  # None: that of the classifier
    weights: str | None = None  # None: those the classifier began with, or "pretrained" for another backbone
    head: HeadName = "aspp"
    start: Literal["classifier", "weights"] = "classifier"  # backbone from the tag-trained network, or as it came
    output_stride: OutputStride = "auto"
    norms: Norms = "batch"  # what pretrained batch normalisations normalise by: the batch, or what they know
    epochs: Count = 16
    batch_size: Count = 16
    side: SidePixels = 321  # of the square training window; photographs are predicted at this long side times 1.25
    scales: ScaleRange = (0.8, 1.6)
    optimiser: Literal["adamw", "sgd"] = "adamw"
    learning_rate: PositiveFloat = 1e-4
    head_factor: PositiveFloat = 10.0
    weight_decay: NonNegativeFloat = 0.01
