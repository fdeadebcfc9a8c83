"""The small vision transformer of early timm, which AFA's successors and SS-EPA compare on: 8 blocks, 768 channels, 8
heads, no bias in the attention. Today's "small" is another network.

Its published weights were trained with products of queries and keys scaled by the width of the whole token, 768,
instead of a head's 96; `from_published` puts the difference into the queries' weights, so that any kernel will do.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

NAME = "vit_small_patch16_224_depth8"
WIDTH, HEADS = 768, 8


def create() -> Any:
    """Makes the network with random weights, and with what `Backbone` asks of timm's networks."""
    network = VisionTransformer(
        patch_size=16,
        embed_dim=WIDTH,
        depth=8,
        num_heads=HEADS,
        mlp_ratio=3.0,
        qkv_bias=False,
        norm_layer=partial(nn.LayerNorm, eps=1e-5),
        num_classes=0,
        global_pool="",
        dynamic_img_size=True,
    )
    network.pretrained_cfg = {  # type: ignore[assignment]
        "classifier": "head",
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
    }
    return network


def from_published(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns the published state dict with its queries scaled."""
    scale = (WIDTH / (WIDTH / HEADS)) ** -0.5
    found = dict(state)
    for name, weight in state.items():
        if name.endswith("attn.qkv.weight"):
            found[name] = torch.cat([weight[:WIDTH] * scale, weight[WIDTH:]])
    return found
