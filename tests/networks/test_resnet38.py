"""The network itself is held against the published one in `tests/parity/test_l2g.py`."""

import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from tagseg.errors import BadInput
from tagseg.networks import resnet38
from tagseg.networks.backbone import Backbone
from tagseg.networks.mxnet import read_mxnet
from tagseg.networks.resnet38 import ResNet38, from_mxnet


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone("resnet38", "random", 8).eval()


def test_geometry(backbone: Backbone):
    assert (backbone.channels, backbone.stride, backbone.grid.corners) == (4096, 8, True)
    assert backbone.stage_shapes() == ([128, 256, 512, 1024, 4096], [2, 4, 8, 8, 8])
    images = torch.randn(1, 3, 33, 41)
    with torch.no_grad():
        features, stages = backbone.with_stages(images)
        assert features.shape == (1, 4096, 5, 6)
        torch.testing.assert_close(backbone(images), features)
        torch.testing.assert_close(stages[-1], features)


def test_what_is_frozen(backbone: Backbone):
    """The first convolution, the group b2, and every norm (published)."""
    backbone.freeze(4, "frozen")
    backbone.train()
    frozen = {name.split(".")[1] for name, p in backbone.named_parameters() if not p.requires_grad and p.ndim > 1}
    assert frozen == {"conv1a", "b2", "b2_1", "b2_2"}
    norms = [m for m in backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert not any(m.training or m.weight.requires_grad for m in norms)


def mxnet_name(key: str) -> str:
    """The other way round: `b4_3.conv_branch2a.weight` -> `arg:res4b3_branch2a_weight`."""
    names = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_var"}
    block, *layer, what = key.split(".")
    kind = "aux" if what.startswith("running") else "arg"
    if not layer:
        name = "conv1a_weight" if block == "conv1a" else f"bn7_{names[what]}"
        return f"{kind}:{name}"
    number = block[1:].replace("_", "b") if "_" in block else f"{block[1:]}a"
    family, branch = layer[0].split("_branch")
    prefix, last = ("res", what) if family == "conv" else ("bn", names[what])
    return f"{kind}:{prefix}{number}_branch{branch}_{last}"


def test_names_of_the_original_weights():
    wanted = {k: torch.full((1,), i) for i, k in enumerate(ResNet38().state_dict()) if "num_batches" not in k}
    theirs = {mxnet_name(key): value for key, value in wanted.items()}
    assert len(theirs) == len(wanted)
    assert "arg:res4b3_branch2a_weight" in theirs
    assert "aux:bn6a_branch2b2_moving_var" in theirs
    assert from_mxnet({**theirs, "arg:linear1000_weight": torch.zeros(1)}) == wanted


def mxnet_file(arrays: dict[str, np.ndarray], version: int) -> bytes:
    """As MXNet writes it: version 0 until 2016, 1 with 64-bit shapes, 2 with a kind of storage."""
    parts = [struct.pack("<QQQ", 0x112, 0, len(arrays))]
    types = {"float32": 0, "float16": 2, "int64": 6}
    for array in arrays.values():
        head = {0: b"", 1: struct.pack("<I", 0xF993FAC8), 2: struct.pack("<Ii", 0xF993FAC9, 0)}[version]
        shape = struct.pack(f"<I{array.ndim}{'q' if version else 'I'}", array.ndim, *array.shape)
        parts += [head, shape, struct.pack("<iii", 1, 0, types[array.dtype.name]), array.tobytes()]
    parts.append(struct.pack("<Q", len(arrays)))
    for name in arrays:
        parts.append(struct.pack("<Q", len(name)) + name.encode())
    return b"".join(parts)


ARRAYS = {
    "arg:a_weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "aux:b": np.array([1.5, -2], dtype=np.float16),
    "arg:c": np.arange(4, dtype=np.int64).reshape(1, 2, 2, 1),
}


@pytest.mark.parametrize("version", [0, 1, 2])
def test_mxnet_files(tmp_path: Path, version: int):
    path = tmp_path / "weights.params"
    path.write_bytes(mxnet_file(ARRAYS, version))
    found = read_mxnet(path)
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name].numpy(), array)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda b: b[:-5], "ends too early"),
        (lambda b: b[:60], "ends too early"),
        (lambda b: b"PK" + b[2:], "no MXNet file"),
        (lambda b: b[:24] + struct.pack("<I", 99) + b[28:], "99 dimensions"),
        (lambda b: b[:36] + struct.pack("<iii", 1, 0, 77) + b[48:], "type 77"),
        (lambda b: b[:24] + struct.pack("<Ii", 0xF993FAC9, 1) + b[32:], "sparse"),
    ],
)
def test_damaged_files(tmp_path: Path, damage, message: str):
    path = tmp_path / "weights.params"
    path.write_bytes(damage(mxnet_file(ARRAYS, 0)))
    with pytest.raises(BadInput, match=message):
        read_mxnet(path)


def test_weights_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The original ones, and state dicts as projects publish them: with a head, and from several GPUs."""
    monkeypatch.setattr(resnet38, "WIDTH", 2)  # a thousandth of the file
    state = {k: v for k, v in ResNet38().state_dict().items() if "num_batches" not in k}
    (tmp_path / "a1.params").write_bytes(mxnet_file({mxnet_name(k): v.numpy() for k, v in state.items()}, 0))
    published = {f"module.{k}": v for k, v in {**state, "fc8.weight": torch.zeros(20, 128, 1, 1)}.items()}
    torch.save(published, tmp_path / "l2g.pth")
    for name in ("a1.params", "l2g.pth"):
        loaded = Backbone("resnet38", str(tmp_path / name), None).network.state_dict()
        assert all(torch.equal(loaded[key], value) for key, value in state.items())


def test_what_cannot_be():
    with pytest.raises(BadInput, match="output_stride=16: 'resnet38' has 8 and no other"):
        Backbone("resnet38", "random", 16)
    with pytest.raises(BadInput, match=r"ilsvrc-cls_rna-a1_cls1000_ep-0001\.params"):
        Backbone("resnet38", "pretrained", 8)
    with pytest.raises(BadInput, match="did you mean 'resnet38'"):
        Backbone("resnet_38", "random", 8)
