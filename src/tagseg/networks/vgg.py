"""VGG as this field uses it: with a finer last grid, and without its fully connected layers."""

from __future__ import annotations

from typing import Any

from timm.models.vgg import VGG
from torch import nn

# makes of 119 million weights of fully connected layers, which features do not need, some thousands, until `refit`
# drops them: most of the time and memory that it takes to build a VGG
NARROW = {"mlp_ratio": 1 / 4096}


def is_vgg(name: str) -> bool:
    """Tells whether timm builds a VGG under that name."""
    return name.startswith("vgg")


def refit(network: VGG, output_stride: int | None) -> Any:
    """Changes timm's VGG in place to the output stride 8 or 16; None or 32 leave its features as they are.

    At 16 the fifth pooling goes; at 8 the fourth also pools 3x3 at stride 1, and what follows is dilated by 2 (as in
    DeepLab v1 and, without the fifth pooling, OAA). The layers keep their names, so that weights fit.

    Raises:
        NotImplementedError: another stride.
    """
    network.pre_logits = nn.Identity()  # type: ignore[assignment]
    if output_stride in (None, 32):
        return network
    if output_stride not in (8, 16):
        raise NotImplementedError("VGG has the strides 8, 16 and 32")
    layers = network.features
    pools = [number for number, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)]
    layers[pools[-1]] = nn.Identity()
    if output_stride == 8:
        layers[pools[-2]] = nn.MaxPool2d(kernel_size=3, stride=1, padding=1)
        for layer in layers[pools[-2] :]:
            if isinstance(layer, nn.Conv2d):
                layer.dilation = layer.padding = (2, 2)
    return network
