"""Mix transformers as backbones, and what reads their attention and their stages."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import tagseg
from tagseg.data.images import read_image
from tagseg.data.reading import read_dataset
from tagseg.errors import BadInput
from tagseg.methods.afa import AFA, near_pairs
from tagseg.methods.settings.afa import AFASettings
from tagseg.networks.backbone import Backbone, _in_square
from tagseg.networks.vit import StagedTransformer, Transformer
from tagseg.segmentation.deeplab import DeepLab, SegFormerHead
from tests.conftest import TINY, names


@pytest.mark.parametrize(
    ("stride", "strides"), [(None, [4, 8, 16, 32]), (16, [4, 8, 16, 16]), ("auto", [4, 8, 16, 16])]
)
def test_strides(stride: Any, strides: list[int]):
    backbone = Backbone("mit_b0", "random", stride)
    assert backbone.stage_shapes() == ([32, 64, 160, 256], strides)
    assert (backbone.stride, backbone.grid.corners, backbone.channels) == (strides[-1], True, 256)
    images = torch.rand(1, 3, *backbone.grid.fit(70, 100))
    assert backbone(images).shape[2:] == backbone.grid.cells(*images.shape[2:])


def test_a_stride_that_it_has_not():
    with pytest.raises(BadInput, match="'mit_b1' has 32 or 16 and no other"):
        Backbone("mit_b1", "random", 8)
    with pytest.raises(BadInput, match=r"mit_b0\.pth"):
        Backbone("mit_b0", "pretrained")


def test_published_weights_and_what_does_not_learn(tmp_path: Path):
    state = Backbone("mit_b0").network.state_dict()
    state = {name.replace("dwconv.", "dwconv.dwconv."): value for name, value in state.items()}
    save_file({**state, "head.weight": torch.zeros(1000, 256)}, tmp_path / "mit_b0.safetensors")
    backbone = Backbone("mit_b0", str(tmp_path / "mit_b0.safetensors"))
    assert torch.equal(backbone.network.block4[1].mlp.dwconv.weight, state["block4.1.mlp.dwconv.dwconv.weight"])
    backbone.freeze(4, "frozen")
    held = {name.split(".")[1] for name, p in backbone.named_parameters() if not p.requires_grad}
    assert held == {"patch_embed1", "block1", "norm1"}


def test_attention_is_that_of_the_last_stage():
    with pytest.raises(BadInput, match="no plain vision transformer"):
        Transformer("mit_b0")
    network = StagedTransformer("mit_b0").eval()
    tokens = network.tokens(torch.rand(2, 3, 65, 97), attention=True)
    assert tokens.attention is not None
    assert tokens.attention.logits(2).shape == (2, 16, 35, 35)
    assert tokens.attention.grid == tokens.patches.shape[2:] == (5, 7)
    torch.testing.assert_close(tokens.attention.affinity().sum(dim=2), torch.ones(2, 35))
    assert [s.shape[1] for s in tokens.stages] == [32, 64, 160, 256]


def test_joining_before_resizing_is_joining_after_it():
    backbone = Backbone("mit_b0", "random", 16).eval()
    head = SegFormerHead((32, 64, 160, 256), 3, backbone.grid).eval()
    with torch.no_grad():
        stages = backbone.stages(torch.rand(1, 3, 65, 97))
        size = stages[0].shape[2:]
        parts = [backbone.grid.resize(f(s), size) for f, s in zip(head.linear, stages, strict=True)]
        expected = head.exit(head.norm(head.fuse(torch.cat(parts[::-1], dim=1))).relu())
        torch.testing.assert_close(head(stages), expected, atol=1e-5, rtol=1e-4)


def test_the_head_wants_four_stages():
    assert DeepLab(Backbone("test_resnet"), "segformer", 2)(torch.rand(1, 3, 65, 65)).shape[:2] == (1, 3)
    with pytest.raises(BadInput, match="3 stages and 4 are needed"):
        DeepLab(_Three(), "segformer", 2)  # type: ignore[arg-type]


@pytest.mark.parametrize("head", ["aspp", "segformer"])
def test_what_a_square_canvas_gives_is_cut_at_the_cells_of_the_logits(head: Any):
    network = DeepLab(Backbone("test_resnet"), head, 2).eval()
    images = torch.rand(1, 3, 65, 97)
    with torch.no_grad():
        assert _in_square(network, images, network.stride, 1).shape == network(images).shape


def test_labels_of_pairs_are_those_at_the_centres_of_cells():
    labels = torch.zeros(1, 65, 65, dtype=torch.long)
    labels[:, 44:, 44:] = 1  # the centres of the last two of five cells, at 48 and 64
    pairs = near_pairs(labels, (5, 5), 8, Backbone("mit_b0", "random", 16).grid)[0]
    assert pairs[24].nonzero()[:, 0].tolist() == [18, 19, 23, 24]


class _Three:
    name, stride = "three", 16

    def stage_shapes(self) -> tuple[list[int], list[int]]:
        return [1, 2, 3], [4, 8, 16]


def test_products_are_those_of_the_paper():
    """With `compat="official"` affinities see products that are not scaled."""
    networks = []
    for compat in ("paper", "official"):
        torch.manual_seed(0)
        networks.append(AFA("mit_b0", "random", names(3), AFASettings(side=65, compat=compat), 10).eval())
    tokens = networks[0].tokens(torch.rand(1, 3, 65, 65))
    assert tokens.attention is not None
    scaled, raw = (n.affinities(tokens.attention).logit() for n in networks)
    torch.testing.assert_close(raw, scaled * 32**0.5, atol=1e-3, rtol=1e-3)


def test_a_run_and_its_model(tiny_set: Path, tmp_path: Path):
    settings = {**TINY, "backbone": "mit_b0", "train.side": 65, "train.epochs": 2, "train.classes_first": 0.3}
    run = tagseg.fit(tiny_set, tmp_path / "run", recipe="afa", settings=settings, quiet=True)
    model, sample = tagseg.load(run.folder), read_dataset(tiny_set).train[0]
    found = model.predict(sample.image)
    assert found.shape == read_image(sample.image).shape[:2]
    pytest.importorskip("onnxruntime")
    tagseg.export_onnx(run.folder, tmp_path / "onnx", quiet=True)  # which compares it with the network
    assert (tmp_path / "onnx" / "model.onnx").exists()
