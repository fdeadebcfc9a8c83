"""ResNet-38: model A1 of Wu et al., "Wider or Deeper: Revisiting the ResNet Model for Visual Recognition", Pattern
Recognition 2019, at stride 8, as PSA, SEAM, L2G, AEFT and KTSE use it.

Wide rather than deep, and activated before every convolution. The layers are called as in the state dicts that these
projects publish, so that those load as they are; `from_mxnet` renames the original ImageNet weights.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

import torch
from torch import nn

NAME = "resnet38"
WIDTH = 64  # channels of the first convolution; the others have a multiple
# name of the group, blocks, width inside, channels, stride, dilation of the first convolution, and of the others
_GROUPS = (
    ("b2", 3, 2, 2, 2, 1, 1),
    ("b3", 3, 4, 4, 2, 1, 1),
    ("b4", 6, 8, 8, 2, 1, 1),
    ("b5", 3, 8, 16, 1, 1, 2),
)


class Block(nn.Module):
    """A residual block that begins with batch normalisation and ReLU; their result may be given, if it is known."""

    bn_branch2a: nn.BatchNorm2d

    def activated(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the input after batch normalisation and ReLU."""
        return self.bn_branch2a(x).relu()


class Basic(Block):
    """A block of two 3x3 convolutions.

    The shortcut is the input itself, or, where the shape changes, a 1x1 convolution of the activated input.
    """

    def __init__(self, inputs: int, inside: int, channels: int, stride: int, first: int, dilation: int) -> None:
        super().__init__()
        self.bn_branch2a = nn.BatchNorm2d(inputs)
        self.conv_branch2a = nn.Conv2d(inputs, inside, 3, stride, padding=first, dilation=first, bias=False)
        self.bn_branch2b1 = nn.BatchNorm2d(inside)
        self.conv_branch2b1 = nn.Conv2d(inside, channels, 3, padding=dilation, dilation=dilation, bias=False)
        self.conv_branch1: nn.Conv2d | None = None
        if inputs != channels or stride > 1:
            self.conv_branch1 = nn.Conv2d(inputs, channels, 1, stride, bias=False)

    def forward(self, x: torch.Tensor, active: torch.Tensor | None = None) -> torch.Tensor:
        """Returns the block's output; `active` is the activated input, if it is known already."""
        active = self.activated(x) if active is None else active
        shortcut = x if self.conv_branch1 is None else self.conv_branch1(active)
        return self.conv_branch2b1(self.bn_branch2b1(self.conv_branch2a(active)).relu()) + shortcut


class Bottleneck(Block):
    """A block of 1x1 to a quarter, dilated 3x3 to a half, and 1x1 to the whole, with dropout.

    The shortcut is always a convolution.
    """

    def __init__(self, inputs: int, channels: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.bn_branch2a = nn.BatchNorm2d(inputs)
        self.conv_branch2a = nn.Conv2d(inputs, channels // 4, 1, bias=False)
        self.bn_branch2b1 = nn.BatchNorm2d(channels // 4)
        self.conv_branch2b1 = nn.Conv2d(
            channels // 4, channels // 2, 3, padding=dilation, dilation=dilation, bias=False
        )
        self.bn_branch2b2 = nn.BatchNorm2d(channels // 2)
        self.conv_branch2b2 = nn.Conv2d(channels // 2, channels, 1, bias=False)
        self.conv_branch1 = nn.Conv2d(inputs, channels, 1, bias=False)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, x: torch.Tensor, active: torch.Tensor | None = None) -> torch.Tensor:
        """Returns the block's output; `active` is the activated input, if it is known already."""
        active = self.activated(x) if active is None else active
        inner = self.dropout(self.bn_branch2b1(self.conv_branch2a(active)).relu())
        inner = self.dropout(self.bn_branch2b2(self.conv_branch2b1(inner)).relu())
        return self.conv_branch2b2(inner) + self.conv_branch1(active)


class ResNet38(nn.Module):
    """The network ResNet-38, `(B, 3, H, W) -> (B, 4096, h, w)`, with what `Backbone` asks of timm's networks."""

    pretrained_cfg: ClassVar = {
        "classifier": ("fc8", "f8_3", "f8_4", "f9", "linear1000")
    }  # heads in published state dicts
    feature_info: ClassVar = [
        {"module": module, "num_chs": channels, "reduction": reduction}
        for module, channels, reduction in (
            ("b2_2", 128, 2),
            ("b3_2", 256, 4),
            ("b4_5", 512, 8),
            ("b5_2", 1024, 8),
            ("bn7", 4096, 8),
        )
    ]

    def __init__(self) -> None:
        super().__init__()
        self.conv1a = nn.Conv2d(3, WIDTH, 3, padding=1, bias=False)
        inputs = 1
        for group, blocks, inside, channels, stride, first, dilation in _GROUPS:
            for number in range(blocks):
                name = f"{group}_{number}" if number else group
                start = number == 0
                widths = (inputs * WIDTH, inside * WIDTH, channels * WIDTH)
                block = Basic(*widths, stride if start else 1, first if start else dilation, dilation)
                self.add_module(name, block)
                inputs = channels
        self.b6 = Bottleneck(16 * WIDTH, 32 * WIDTH, 4, dropout=0.3)
        self.b7 = Bottleneck(32 * WIDTH, 64 * WIDTH, 4, dropout=0.5)
        self.bn7 = nn.BatchNorm2d(64 * WIDTH)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def early_parameters(self) -> list[nn.Parameter]:
        """Returns the parameters of the first convolution and the group b2.

        They are the ones that `Backbone.freeze` can keep as they are.
        """
        return [p for name, p in self.named_parameters() if name.startswith(("conv1a.", "b2.", "b2_"))]

    def forward_intermediates(
        self, images: torch.Tensor, *, intermediates_only: bool = False, **_: Any
    ) -> list[torch.Tensor] | tuple[torch.Tensor, list[torch.Tensor]]:
        """Returns the last features and those of five stages; with `intermediates_only` the latter alone.

        The stages are what enters b3, b4, b5 ("conv4") and b6 ("conv5"), activated, and the last features ("conv6").
        """
        x, stages = self.conv1a(images), []
        for name, block in self.named_children():
            if isinstance(block, Block):
                active = block.activated(x)
                if name in ("b3", "b4", "b5", "b6"):
                    stages.append(active)
                x = block(x, active)
        features = self.bn7(x).relu()
        stages.append(features)
        return stages if intermediates_only else (features, stages)

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        """Returns the last features. `(B, 3, H, W) -> (B, 4096, h, w)`."""
        return self.forward_intermediates(images)[0]


_MXNET = re.compile(r"(res|bn)(\d)([a-z]?)(\d*)_branch(\w+?)_(weight|gamma|beta|moving_mean|moving_var)")
_NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_var": "running_var"}


def from_mxnet(arrays: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns the state dict of the original ImageNet weights, `ilsvrc-cls_rna-a1_cls1000_ep-0001.params`.

    The classifier is left out.

    Args:
        arrays: by MXNet's names, with or without `arg:` and `aux:`; others are left out too.
    """
    state = {}
    for full, array in arrays.items():
        name = full.removeprefix("arg:").removeprefix("aux:")
        found = _MXNET.fullmatch(name)
        if name == "conv1a_weight":
            state["conv1a.weight"] = array
        elif name.startswith("bn7_") and name[4:] in _NORM:
            state[f"bn7.{_NORM[name[4:]]}"] = array
        elif found:
            kind, group, _, number, branch, what = found.groups()
            block = f"b{group}_{number}" if number else f"b{group}"
            layer = "conv" if kind == "res" else "bn"
            state[f"{block}.{layer}_branch{branch}.{_NORM.get(what, what)}"] = array
    return state
