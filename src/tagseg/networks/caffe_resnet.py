"""ResNet-101 as Caffe has it: strides lie in the first 1x1 convolution of a stage, every block is dilated as its stage,
and colours are BGR of 0 to 255 without their mean.

The weights that have seen COCO's masks, from which published second stages begin (`deeplabv1_resnet101-coco.pth` of
kazuto1011/deeplab-pytorch, in OAA's and L2G's code), are of this kind.
"""

from __future__ import annotations

import re
from typing import Any

import timm
import torch

from tagseg.errors import BadInput

NAME = "resnet101_caffe"
STRIDES = (32, 16, 8)
MEAN = (122.675, 116.669, 104.008)  # of red, green and blue, 0 to 255
_STEM = "layer1.conv1.conv.weight"
_LAYERS = {"reduce": "1", "conv3x3": "2", "increase": "3"}
_BLOCK = re.compile(r"layer([2-5])\.block(\d+)\.(reduce|conv3x3|increase|shortcut)\.(conv|bn)\.(\w+)")


def create(output_stride: int | None) -> Any:
    """Makes the network with random weights, and with what `Backbone` asks of timm's networks."""
    network: Any = timm.create_model("resnet101", num_classes=0, global_pool="", output_stride=output_stride or 32)
    for number in (1, 2, 3, 4):
        stage = getattr(network, f"layer{number}")
        first, dilation = stage[0], stage[-1].conv2.dilation
        first.conv1.stride, first.conv2.stride = first.conv2.stride, (1, 1)
        first.conv2.dilation = first.conv2.padding = dilation
    network.pretrained_cfg = {
        "classifier": "fc",
        "mean": tuple(value / 255 for value in MEAN),
        "std": (1 / 255, 1 / 255, 1 / 255),
    }
    return network


def from_published(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns the state dict of published weights by timm's names, for RGB; heads are left out.

    Raises:
        BadInput: they are none.
    """
    start = next((key.removesuffix(_STEM) for key in state if key.endswith(_STEM)), None)
    if start is None:
        raise BadInput(
            f"the weights are no '{NAME}' (there is no '{_STEM}'); give "
            "deeplabv1_resnet101-coco.pth or another one of deeplab-pytorch."
        )
    found = {}
    for full, value in state.items():
        key = full.removeprefix(start)
        block = _BLOCK.fullmatch(key)
        if key == _STEM:
            found["conv1.weight"] = value.flip(1)
        elif key.startswith("layer1.conv1.bn."):
            found[f"bn1.{key.removeprefix('layer1.conv1.bn.')}"] = value
        elif block:
            stage, number, layer, kind, what = block.groups()
            place = f"layer{int(stage) - 1}.{int(number) - 1}"
            if layer == "shortcut":
                found[f"{place}.downsample.{'0' if kind == 'conv' else '1'}.{what}"] = value
            else:
                found[f"{place}.{kind}{_LAYERS[layer]}.{what}"] = value
    return found
