"""Features of a frozen vision transformer: what photographs look like to a network that learns nothing here.

They say which parts of a photograph are alike (`tagseg.masks.proxy`), and are what small networks learn from in minutes
(`tagseg.segmentation.decoder`).
"""

from __future__ import annotations

from typing import Any

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
        values: whether the last block's value path follows after the levels (see `tagseg.networks.texts`).

    Raises:
        BadInput: the network is no plain transformer, cannot see photographs of any size, or has no values to give.
    """

    def __init__(self, name: str, weights: str = "random", *, values: bool = False) -> None:
        super().__init__(name, weights)
        reductions = {info["reduction"] for info in getattr(self.network, "feature_info", ())}
        depth = len(getattr(self.network, "blocks", ()))
        if self.local or not depth or len(reductions) > 1 or not hasattr(self.network, "forward_intermediates"):
            raise BadInput(
                f"encoder '{name}': this is no plain vision transformer; choose one, for example "
                "vit_small_patch14_dinov2 or vit_tiny_patch16_224."
            )
        self.levels = [max(0, round(depth * part) - 1) for part in DEPTHS]
        attention = getattr(self.network.blocks[-1], "attn", None)
        if values and (depth < 2 or not hasattr(attention, "qkv") or hasattr(attention, "q_bias")):
            raise BadInput(f"encoder '{name}': texts need an image tower of CLIP, such as vit_base_patch16_clip_224.")
        self.values = values
        self.depth = self.channels  # D
        self.channels *= LEVELS + values
        self.hold()

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Returns the features of the L levels, shallow to deep, and then the values where they are wanted.

        `(B, 3, H, W) -> (B, L D, h, w)`, or `(B, L D + D, h, w)`.
        """
        last = len(self.network.blocks) - 1
        wanted = sorted({*self.levels, *([last - 1] if self.values else [])})
        with torch.no_grad():
            given = self.network.forward_intermediates(
                images, indices=wanted, norm=False, intermediates_only=True, output_fmt="NCHW"
            )
            blocks = dict(zip(wanted, given, strict=True))
            found = [blocks[level] for level in self.levels]
            if self.values:
                found.append(_value_path(self.network, blocks[last - 1]))
        return torch.cat([level.float() for level in found], dim=1)

    def parts(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the levels and the values of features. `(B, L D + D, h, w) -> (B, L D, h, w), (B, D, h, w)`."""
        cut = LEVELS * self.depth
        return features[:, :cut], features[:, cut:]


def _value_path(network: Any, patches: torch.Tensor) -> torch.Tensor:
    """The patches as if each attended to itself alone in the last block, which has no way around it.

    `(B, D, h, w)` before the block, and after it.
    """
    block = network.blocks[-1]
    values = block.attn.qkv(block.norm1(patches.permute(0, 2, 3, 1))).chunk(3, dim=-1)[2]
    return network.norm(block.attn.proj(values)).permute(0, 3, 1, 2)
