"""A decoder of frozen features in a chain (see `tagseg.segmentation.decoder`)."""

from __future__ import annotations

from tagseg.masks.refinements import TaughtRefinement
from tagseg.networks.settings import DecoderSettings

REFINEMENT = TaughtRefinement(
    name="decoder",
    about="a small network on frozen features learns the masks of all photographs, and says what it sees of their tags",
    source="as the decoders of WeCLIP, Zhang et al., CVPR 2024",
    settings=DecoderSettings,
    default=DecoderSettings(epochs=3, balance=0.5),
)
