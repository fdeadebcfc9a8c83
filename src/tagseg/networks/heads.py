"""Heads that methods put on a backbone."""

from __future__ import annotations

from torch import nn

WIDTH = 512  # channels of the extra convolutions


def class_branch(channels: int, num_classes: int, convolutions: int) -> nn.Sequential:
    """Returns a branch that ends in the classes: extra 3x3 convolutions with ReLU, then the 1x1 class convolution.

    Args:
        channels: of the features that come in.
        num_classes: C.
        convolutions: how many extra ones there are, `WIDTH` wide; all weights are drawn from N(0, 0.01).
    """
    branch = nn.Sequential()
    for _ in range(convolutions):
        branch.append(nn.Conv2d(channels, WIDTH, kernel_size=3, padding=1)).append(nn.ReLU(inplace=True))
        channels = WIDTH
    branch.append(nn.Conv2d(channels, num_classes, kernel_size=1))
    for module in branch:
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
    return branch
