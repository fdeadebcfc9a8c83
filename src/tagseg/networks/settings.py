"""Settings of the frozen encoder, whose features spread class maps, and of the small networks that learn from them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat

from tagseg.settings import Count, Settings, SidePixels


class EncoderSettings(Settings):
    """Settings of a frozen encoder: a vision transformer that learns nothing here, and is asked once per photograph.

    The default has learnt from photographs without any label (Oquab et al., DINOv2, 2023) and may be used for
    everything (Apache 2.0).
    """

    name: str = "vit_small_patch14_dinov2.lvd142m"  # timm's name of a vision transformer
    weights: str = "pretrained"  # "pretrained" (timm's), "random", or a file
    side: SidePixels = 448  # long side at which photographs are seen, pixels


class CacheSettings(Settings):
    """Settings of the features that frozen networks give, which are computed once and kept on the disk.

    Whatever view of a photograph is kept beside the whole takes as much time and room as it; what learns from features
    sees one of the views in each epoch.
    """

    # bits of a stored number: 8 have 256 steps between the least and the largest value of a channel in a photograph
    bits: Literal[8, 16] = 8
    mirrored: bool = False  # whether mirror images are kept too
    parts: NonNegativeInt = 0  # how many parts of every photograph are kept, each at the side of a whole one


class DecoderSettings(Settings):
    """Settings of a small network that learns to segment from the features of the frozen encoder."""

    width: Count = 256  # channels
    layers: NonNegativeInt = 0  # of a transformer over all cells, as in WeCLIP; 0: one 3x3 convolution
    epochs: Count = 20
    batch_size: Count = 16
    learning_rate: PositiveFloat = 2e-3
    weight_decay: NonNegativeFloat = 0.01
    # weight of the loss of tags beside that of masks: a class that is tagged must be found somewhere, and no other
    tags: NonNegativeFloat = 0.0
    # how much more a pixel weighs whose label is rare in its photograph: the power of the number of pixels with it
    balance: float = Field(default=0.0, ge=0, le=1)
