"""Caffe's ResNet-101 against deeplab-pytorch (kazuto1011/deeplab-pytorch, commit 4219467, MIT licence).

`data/caffe_resnet.npz` is every 64th channel of what the layers before the head of its DeepLab-v2 make of a photograph
of random colours, with weights that are drawn by their names' order.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from tagseg.data.loading import normalise
from tagseg.errors import BadInput
from tagseg.networks.backbone import Backbone
from tagseg.networks.caffe_resnet import NAME
from tests.parity.golden import assert_close

with np.load(Path(__file__).parent / "data" / "caffe_resnet.npz") as arrays:
    IMAGE, FEATURES = arrays["image"], arrays["features"]


def published_name(name: str) -> str:
    if name.startswith(("conv1.", "bn1.")):
        return f"layer1.conv1.{'conv' if name.startswith('conv') else 'bn'}.{name.split('.')[1]}"
    stage, block, layer, *rest = name.split(".")
    place = f"layer{int(stage[-1]) + 1}.block{int(block) + 1}"
    if layer == "downsample":
        return f"{place}.shortcut.{'conv' if rest[0] == '0' else 'bn'}.{rest[1]}"
    return f"{place}.{['reduce', 'conv3x3', 'increase'][int(layer[-1]) - 1]}.{layer[:-1]}.{rest[0]}"


def published_state() -> dict[str, torch.Tensor]:
    shapes = {published_name(key): value for key, value in Backbone(NAME).network.state_dict().items()}
    rng, state = np.random.default_rng(0), {}
    for name in sorted(shapes):
        shape = tuple(shapes[name].shape)
        if name.endswith("num_batches_tracked"):
            continue
        if len(shape) == 4:
            values = rng.standard_normal(shape, dtype=np.float32) * np.prod(shape[1:]) ** -0.5
        elif name.endswith("running_var"):
            values = rng.random(shape, dtype=np.float32) + 0.5
        elif name.endswith("weight"):
            values = np.full(shape, 0.7, np.float32)
        else:
            values = rng.standard_normal(shape, dtype=np.float32) * 0.1
        state[name] = torch.from_numpy(values.astype(np.float32))
    return state


@pytest.mark.parametrize("before", ["", "base.", "module.scale.base."])
def test_features_at_stride_8(before: str, tmp_path: Path):
    state = {before + name: values for name, values in published_state().items()}
    state[f"{before}aspp.c0.bias"] = torch.zeros(3)
    torch.save(state, tmp_path / "coco.pth")
    network = Backbone(NAME, str(tmp_path / "coco.pth"), 8).eval()
    with torch.inference_mode():
        found = network(normalise(IMAGE, network)[None])
    assert found.shape == (1, 2048, 9, 11)
    assert_close(found[0, ::64].numpy(), FEATURES)


def test_other_weights_are_refused(tmp_path: Path):
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, tmp_path / "torchvision.pth")
    with pytest.raises(BadInput, match=r"no 'resnet101_caffe'.*give deeplabv1_resnet101-coco.pth"):
        Backbone(NAME, str(tmp_path / "torchvision.pth"), 8)


@pytest.mark.parametrize(("asked", "stride"), [(8, 8), (16, 16), (32, 32), (None, 32)])
def test_strides(asked: int | None, stride: int):
    network = Backbone(NAME, "random", asked)
    assert network.stride == stride
    strided = [n for n, m in network.network.named_modules() if n.endswith("conv2") and m.stride != (1, 1)]
    assert not strided
