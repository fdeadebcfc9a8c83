"""Features of a frozen vision transformer: what photographs look like to a network that learns nothing here.

They say which parts of a photograph are alike (`tagseg.masks.proxy`), and are what small networks learn from in minutes
(`tagseg.segmentation.decoder`).
"""

from __future__ import annotations

import torch

from tagseg.errors import BadInput
from tagseg.networks.backbone import Backbone

DEPTHS = (1 / 2, 3 / 4, 1)  # of the blocks that are kept, as shares of the network's depth
LEVELS = len(DEPTHS)


class Levels(Backbone):
    """A frozen transformer that gives the patches of several of its blocks, as they are before any last normalisation.

    Any plain transformer of timm will do: ImageNet's ViT and DeiT, DINOv2, DINOv3, CLIP's image tower, with patches of
    any size, with registers, and with positions that are learnt or rotary.

    Args:
        name, weights: see `tagseg.networks.backbone.Backbone`.

    Raises:
        BadInput: the network is no plain transformer, or cannot see photographs of any size.
    """

    def __init__(self, name: str, weights: str = "random") -> None:
        super().__init__(name, weights)
        reductions = {info["reduction"] for info in getattr(self.network, "feature_info", ())}
        depth = len(getattr(self.network, "blocks", ()))
        if self.local or not depth or len(reductions) > 1 or not hasattr(self.network, "forward_intermediates"):
            raise BadInput(
                f"encoder '{name}': this is no plain vision transformer; choose one, for example "
                "vit_small_patch14_dinov2 or vit_tiny_patch16_224."
            )
        self.levels = [max(0, round(depth * part) - 1) for part in DEPTHS]
        self.channels *= LEVELS
        self.hold()

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Returns the features of the L levels, shallow to deep. `(B, 3, H, W) -> (B, L D, h, w)`."""
        with torch.no_grad():
            found = self.network.forward_intermediates(
                images, indices=self.levels, norm=False, intermediates_only=True, output_fmt="NCHW"
            )
        return torch.cat([level.float() for level in found], dim=1)
