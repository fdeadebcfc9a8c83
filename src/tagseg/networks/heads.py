"""Heads that methods put on a backbone."""

from __future__ import annotations

from torch import nn

WIDTH = 512  # channels of the extra convolutions


def extra_convolutions(channels: int, count: int) -> nn.Sequential:
    """Returns 3x3 convolutions with ReLU, `WIDTH` wide, with weights from N(0, 0.01): `(B, D, h, w) -> (B, D', h, w)`.

    Args:
        channels: of the features that come in.
        count: how many there are; of none what comes in goes out.
    """
    return _drawn(_convolutions(channels, count))


def class_branch(channels: int, num_classes: int, convolutions: int) -> nn.Sequential:
    """Returns a branch that ends in the classes: extra 3x3 convolutions with ReLU, then the 1x1 class convolution.

    Args:
        channels: of the features that come in.
        num_classes: C.
        convolutions: how many extra ones there are, `WIDTH` wide; all weights are drawn from N(0, 0.01).
    """
    branch = _convolutions(channels, convolutions)
    return _drawn(branch.append(nn.Conv2d(WIDTH if convolutions else channels, num_classes, kernel_size=1)))


def _convolutions(channels: int, count: int) -> nn.Sequential:
    layers = nn.Sequential()
    for number in range(count):
        layers.append(nn.Conv2d(WIDTH if number else channels, WIDTH, kernel_size=3, padding=1))
        layers.append(nn.ReLU(inplace=True))
    return layers


def _drawn(layers: nn.Sequential) -> nn.Sequential:
    for module in layers:
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
    return layers
