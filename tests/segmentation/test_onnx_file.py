"""Networks as ONNX: the probabilities of torch at every size, and a script that needs neither torch nor tagseg."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from timm.layers.pos_embed import resample_abs_pos_embed

import tagseg
from tagseg.data.images import read_image, read_index_png
from tagseg.errors import BadInput
from tagseg.networks.backbone import Backbone
from tagseg.networks.features import Levels
from tagseg.segmentation.decoder import FrozenSegmenter
from tagseg.segmentation.deeplab import DeepLab, DeepLabPair
from tagseg.segmentation.model import SegmentationModel
from tagseg.segmentation.onnx_file import METADATA, _resampled, save_onnx

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")


def networks() -> dict[str, Any]:
    return {
        "convolutions that stride with odd kernels": lambda: DeepLab(Backbone("test_resnet", "random", 16), "aspp", 3),
        "two networks": lambda: DeepLabPair(*(DeepLab(Backbone("test_resnet", "random", 16), "aspp", 3) for _ in "12")),
        "a transformer's patches": lambda: DeepLab(Backbone("test_vit", "random"), "tokens", 3),
        "classes as tokens": lambda: DeepLab(Backbone("test_vit", "random"), "segmenter", 3),
        "a decoder of one convolution": lambda: FrozenSegmenter(Levels("test_vit"), 3, 32, 0),
        "a decoder that attends": lambda: FrozenSegmenter(Levels("test_vit"), 3, 32, 2),
        "registers": lambda: FrozenSegmenter(Levels("test_vit2"), 3, 32, 1),
    }


@pytest.mark.parametrize("name", networks())
def test_what_torch_says_at_every_size(name: str, tmp_path: Path):
    torch.manual_seed(0)
    network = networks()[name]().eval()
    before = dict(network.state_dict())
    model = SegmentationModel(network, ("a", "b", "c"), 96)
    assert save_onnx(model, tmp_path / "model.onnx") < 1e-4
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    told = json.loads(session.get_modelmeta().custom_metadata_map[METADATA])
    assert told["classes"] == ["background", "a", "b", "c"]
    grid = network.backbone.grid
    for height, width, batch in ((64, 128, 1), (160, 96, 3)):
        image = np.random.default_rng(0).integers(0, 256, (batch, *grid.fit(height, width), 3), dtype=np.uint8)
        given = {"image": image, "size": np.array([height - 7, width + 9])}
        (found,) = session.run(None, given)
        assert found.shape == (batch, 4, height - 7, width + 9)
        np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    assert not list(tmp_path.glob("*.partial"))
    assert all(
        torch.equal(value, before[key]) for key, value in network.state_dict().items()
    )  # nothing was left changed
    network(torch.zeros(1, 3, *grid.fit(64, 64)))


@pytest.mark.parametrize("size", [(4, 7), (14, 14), (23, 9), (30, 31)])
@pytest.mark.parametrize("prefix", [0, 5])
def test_positions_are_those_of_timm(size: tuple[int, int], prefix: int):
    positions = torch.randn(1, prefix + 14 * 14, 8, generator=torch.Generator().manual_seed(0))
    right = resample_abs_pos_embed(positions, list(size), num_prefix_tokens=prefix)
    torch.testing.assert_close(_resampled(positions, size, num_prefix_tokens=prefix), right, atol=1e-4, rtol=1e-4)


def test_a_network_that_sees_one_size_only(tmp_path: Path):
    model = SegmentationModel(DeepLab(Backbone("test_resnet", "random", 16), "aspp", 1), ("a",), 96)

    class OneSize(torch.nn.Module):
        def forward(self, features: torch.Tensor) -> torch.Tensor:
            return features[:, :2] * torch.zeros(4, 4)

    model.network.head = OneSize()  # type: ignore[assignment]
    with pytest.raises(BadInput, match="as ONNX"):
        save_onnx(model, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_the_script_beside_it(tiny_run: Any, tiny_set: Path, tmp_path: Path):
    found = tagseg.export_onnx(tiny_run.folder, tmp_path / "out", quiet=True)
    assert found.difference < 1e-4
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["MODEL.md", "model.onnx", "predict.py"]
    photo, mask = sorted((tiny_set / "images").iterdir())[0], tmp_path / "mask.png"
    subprocess.run([sys.executable, tmp_path / "out" / "predict.py", photo, mask], check=True, cwd=tmp_path)
    right = tagseg.load(tiny_run.folder).predict(photo)
    assert np.mean(read_index_png(mask) == right) > 0.98  # Pillow's resizing is not OpenCV's
    text = (tmp_path / "out" / "predict.py").read_text()
    assert "torch" not in text.split('"""')[2]
    card = (tmp_path / "out" / "MODEL.md").read_text(encoding="utf-8")
    assert "Largest difference of a probability" in card
    assert "Every setting of the run" in card


def test_weights_of_8_bits(tiny_run: Any, tiny_set: Path, tmp_path: Path):
    whole = tagseg.export_onnx(tiny_run.folder, tmp_path / "whole", quiet=True)
    small = tagseg.export_onnx(tiny_run.folder, tmp_path / "small", int8=True, quiet=True)
    assert small.path.stat().st_size < 0.5 * whole.path.stat().st_size
    assert small.changed is not None
    assert small.changed < 0.2
    assert "get another class" in (tmp_path / "small" / "MODEL.md").read_text(encoding="utf-8")
    assert read_image(next((tiny_set / "images").iterdir())).ndim == 3


def test_what_is_no_network(tmp_path: Path):
    with pytest.raises(BadInput, match="no trained model"):
        tagseg.export_onnx(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
