"""DeepLab v1 (LargeFOV) and v2 (ASPP): Chen et al., ICLR 2015 and TPAMI 2018, on any backbone; and other heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F

from tagseg.errors import BadInput
from tagseg.grid import Grid
from tagseg.networks.backbone import Backbone
from tagseg.segmentation.mask_transformer import MaskTransformer
from tagseg.segmentation.settings import HeadName


class LargeFOV(nn.Sequential):
    """A head of a 3x3 dilated convolution with a large field of view, two dropouts and a 1x1 class convolution.

    It is that of DeepLab v1 (section 4.1). The published dilation 12 is for stride 8; at other strides it spans the
    same pixels.
    """

    def __init__(self, channels: int, outputs: int, stride: int) -> None:
        dilation = _at_stride(12, stride)
        super().__init__(
            nn.Conv2d(channels, 1024, 3, padding=dilation, dilation=dilation),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Conv2d(1024, 1024, 1),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Conv2d(1024, outputs, 1),
        )
        _initialise(self)


class TokenDecoder(nn.Sequential):
    """The decoder of ToCo (CVPR 2023, published code) on a transformer's patches.

    It has two dilated 3x3 convolutions of 512 channels and the 1x1 class convolution, without biases. The published
    dilation 5 is for stride 16.
    """

    def __init__(self, channels: int, outputs: int, stride: int) -> None:
        dilation = _at_stride(10, stride)
        super().__init__(
            nn.Conv2d(channels, 512, 3, padding=dilation, dilation=dilation, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(512, 512, 3, padding=dilation, dilation=dilation, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(512, outputs, 1, bias=False),
        )


class ASPP(nn.Module):
    """A head that sums four dilated 3x3 class convolutions (DeepLab v2, section 3.2).

    Their dilations are 6, 12, 18 and 24 at stride 8.
    """

    def __init__(self, channels: int, outputs: int, stride: int) -> None:
        super().__init__()
        dilations = [_at_stride(d, stride) for d in (6, 12, 18, 24)]
        self.branches = nn.ModuleList([nn.Conv2d(channels, outputs, 3, padding=d, dilation=d) for d in dilations])
        _initialise(self)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Returns the sum of the four class convolutions of features."""
        return torch.stack([branch(features) for branch in self.branches]).sum(dim=0)


class SegFormerHead(nn.Module):
    """A head on the features of four stages: Xie et al., NeurIPS 2021, section 3.2, with 256 channels.

    Every stage is brought to the same channels and to the finest cells, and one 1x1 convolution joins them, normalised
    and rectified. Joining comes before resizing here, which a convolution of single cells leaves as it is, so that no
    more than a quarter of the channels is ever held at the finest cells.

    Args:
        widths: channels of the stages, fine to coarse.
        outputs: C + 1.
        grid: how the cells of the first of them lie; those of the others do alike.
    """

    WIDTH, DROPPED = 256, 0.1

    def __init__(self, widths: Sequence[int], outputs: int, grid: Grid) -> None:
        super().__init__()
        self.grid = grid
        self.linear = nn.ModuleList(nn.Conv2d(width, self.WIDTH, 1) for width in widths)
        self.fuse = nn.Conv2d(len(widths) * self.WIDTH, self.WIDTH, 1, bias=False)
        self.norm, self.drop = nn.BatchNorm2d(self.WIDTH), nn.Dropout2d(self.DROPPED)
        self.exit = nn.Conv2d(self.WIDTH, outputs, 1)

    def forward(self, stages: Sequence[torch.Tensor]) -> torch.Tensor:
        """Returns the logits at the cells of the first of the stages `(B, D_i, h_i, w_i)`: `(B, C + 1, h_0, w_0)`."""
        size = stages[0].shape[-2:]
        # the published convolution has the coarsest stage first
        parts = self.fuse.weight.split(self.WIDTH, dim=1)[::-1]
        joined = [
            self.grid.resize(F.conv2d(linear(stage), part), size)
            for linear, part, stage in zip(self.linear, parts, stages, strict=True)
        ]
        return self.exit(self.drop(self.norm(torch.stack(joined).sum(dim=0)).relu()))


STAGES = 4  # that the head of SegFormer sees, the last ones of a network


def made_head(name: HeadName, backbone: Backbone, outputs: int) -> nn.Module:
    """Returns a head for the features of a backbone, with `outputs` channels, C + 1.

    Raises:
        BadInput: the head wants more stages than the backbone has.
    """
    if name == "segformer":
        widths, strides = backbone.stage_shapes()
        if len(widths) < STAGES:
            raise BadInput(
                f"segment.head segformer: '{backbone.name}' has {len(widths)} stages and {STAGES} are needed; "
                "choose another head or backbone."
            )
        return SegFormerHead(widths[-STAGES:], outputs, backbone.grid.with_stride(strides[-STAGES]))
    if name == "segmenter":
        return MaskTransformer(backbone.channels, outputs)
    heads: dict[str, type[nn.Module]] = {"aspp": ASPP, "largefov": LargeFOV, "tokens": TokenDecoder}
    return heads[name](backbone.channels, outputs, backbone.stride)


def seen_by(name: HeadName, backbone: Backbone, images: torch.Tensor) -> Any:
    """Returns what a head sees of images `(B, 3, H, W)`: the last features `(B, D, h, w)`, or those of four stages."""
    return backbone.stages(images)[-STAGES:] if name == "segformer" else backbone(images)


class DeepLab(nn.Module):
    """A backbone and a head: `(B, 3, H, W) -> (B, C + 1, h, w)` logits, background first; see `made_head`."""

    def __init__(self, backbone: Backbone, head: HeadName, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head_name = head
        self.head = made_head(head, backbone, num_classes + 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Returns the logits, background first. `(B, 3, H, W) -> (B, C + 1, h, w)`."""
        return self.head(seen_by(self.head_name, self.backbone, images))

    @property
    def stride(self) -> int:
        """Returns the pixels from one cell of the logits to the next."""
        return self.head.grid.stride if isinstance(self.head, SegFormerHead) else self.backbone.stride

    @property
    def local(self) -> bool:
        """Returns whether nothing in it attends to all cells, so that padding far away changes nothing."""
        return self.backbone.local and not isinstance(self.head, MaskTransformer)

    @property
    def heads(self) -> tuple[nn.Module, ...]:
        """Returns what of it tells classes apart."""
        return (self.head,)

    def logits_at(self, images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Returns the logits interpolated to `size`: `(B, C + 1, *size)`."""
        return self.backbone.grid.resize(self(images), size)


class DeepLabPair(nn.Module):
    """Two DeepLabs of one kind, whose logits are averaged: `(B, 3, H, W) -> (B, C + 1, h, w)`, background first.

    BECO (Rong et al., CVPR 2023) trains such a pair and keeps both.
    """

    def __init__(self, first: DeepLab, second: DeepLab) -> None:
        super().__init__()
        self.networks = nn.ModuleList([first, second])
        self.head_name = first.head_name

    @property
    def backbone(self) -> Backbone:
        """Returns the backbone of the first, to whose grid and colours the second keeps."""
        return self.both[0].backbone

    @property
    def both(self) -> tuple[DeepLab, DeepLab]:
        """Returns the two networks."""
        first, second = self.networks
        return cast(DeepLab, first), cast(DeepLab, second)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Returns the mean logits. `(B, 3, H, W) -> (B, C + 1, h, w)`."""
        first, second = self.both
        return (first(images) + second(images)) / 2

    @property
    def stride(self) -> int:
        """Returns the pixels from one cell of the logits to the next."""
        return self.both[0].stride

    @property
    def local(self) -> bool:
        """Returns whether nothing in it attends to all cells, so that padding far away changes nothing."""
        return self.both[0].local

    @property
    def heads(self) -> tuple[nn.Module, ...]:
        """Returns what of it tells classes apart."""
        return tuple(network.head for network in self.both)

    def logits_at(self, images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Returns the mean logits interpolated to `size`: `(B, C + 1, *size)`."""
        return self.backbone.grid.resize(self(images), size)


def _at_stride(dilation: int, stride: int) -> int:
    return max(1, dilation * 8 // stride)


def _initialise(head: nn.Module) -> None:
    for module in head.modules():
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)
