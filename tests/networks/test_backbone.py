from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tagseg.errors import BadInput
from tagseg.grid import Grid
from tagseg.networks.backbone import Backbone, _in_square, on_canvas


@pytest.mark.parametrize(
    ("height", "width", "stride", "corners", "expected"),
    [
        (257, 200, 16, True, (257, 193)),
        (3, 500, 16, True, (17, 497)),
        (257, 200, 16, False, (256, 192)),
        (3, 500, 16, False, (16, 496)),
    ],
)
def test_fit_size(height: int, width: int, stride: int, corners: bool, expected: tuple[int, int]):
    assert Grid(stride, corners).fit(height, width) == expected


@pytest.mark.parametrize("stride", [8, 16, 32])
@pytest.mark.parametrize("size", [(65, 97), (33, 129)])
def test_the_grid_covers_the_image_and_flips_with_it(stride: int, size: tuple[int, int]):
    backbone = Backbone("mobilenetv2_035", output_stride=stride).eval()
    assert backbone.stride == stride
    for module in backbone.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.weight.data.fill_(1 / module.weight[0].numel())  # kernels that flip onto themselves
    images = torch.rand(1, 3, *size)
    images = images + images.flip(-1)
    with torch.inference_mode():
        grid = backbone(images)
    assert grid.shape == (1, backbone.channels, (size[0] - 1) // stride + 1, (size[1] - 1) // stride + 1)
    torch.testing.assert_close(grid, grid.flip(-1), rtol=1e-4, atol=1e-6)
    assert grid.std() > 0


@pytest.mark.parametrize(("corners", "size"), [(True, (33, 49)), (True, (65, 17)), (False, (32, 48))])
def test_a_square_canvas_changes_nothing_but_the_shape_the_network_sees(corners: bool, size: tuple[int, int]):
    seen = []

    def network(images: torch.Tensor) -> torch.Tensor:
        seen.append(images.shape)
        return convolution(images)

    kernel = {"kernel_size": 5, "padding": 2} if corners else {"kernel_size": 4}
    convolution = torch.nn.Conv2d(3, 2, stride=4, bias=False, **kernel)
    images = torch.randn(3, 3, *size)
    torch.testing.assert_close(_in_square(network, images, stride=4, batch=8), convolution(images))
    assert seen == [(8, 3, max(size), max(size))]
    torch.testing.assert_close(on_canvas(network, images, stride=4, batch=8), convolution(images))
    assert seen[1] == images.shape  # on a CPU they go through as they are


def test_transformers_give_a_grid_of_any_shape():
    backbone = Backbone("test_vit").eval()
    height, width = backbone.grid.fit(100, 150)
    with torch.inference_mode():
        grid = backbone(torch.randn(2, 3, height, width))
    assert grid.shape == (2, backbone.channels, height // backbone.stride, width // backbone.stride)


def test_resize_maps_keeps_corners_where_cells_lie_on_them():
    maps = torch.arange(6.0).view(1, 1, 2, 3)
    large = Grid(16, corners=True).resize(maps, (17, 33))
    assert large[0, 0, 0, 0] == 0
    assert large[0, 0, -1, -1] == 5
    assert large[0, 0, 0, 16] == 1


@pytest.mark.parametrize(
    ("name", "weights", "stride", "words"),
    [
        ("resnet5O", "random", None, "did you mean 'resnet50'"),
        ("test_resnet", "nowhere.safetensors", None, "no such weights file"),
        ("test_vit", "random", 8, "set output_stride=null"),
    ],
)
def test_what_does_not_exist_is_named(name: str, weights: str, stride: int | None, words: str):
    with pytest.raises(BadInput, match=words):
        Backbone(name, weights, stride)


def test_weights_from_a_file_and_weights_that_do_not_fit(tmp_path: Path):
    source = Backbone("test_resnet")
    state = {**source.network.state_dict(), "fc.weight": torch.zeros(1000, source.channels)}
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "whole.safetensors")
    read = Backbone("test_resnet", str(tmp_path / "whole.safetensors")).network.state_dict()
    assert all(torch.equal(v, read[k]) for k, v in source.network.state_dict().items())
    save_file({"fc.weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(BadInput, match="do not fit the backbone"):
        Backbone("test_resnet", str(tmp_path / "other.safetensors"))
    (tmp_path / "broken.safetensors").write_bytes(b"x")
    with pytest.raises(BadInput, match="cannot be read"):
        Backbone("test_resnet", str(tmp_path / "broken.safetensors"))


def test_frozen_parts_do_not_learn():
    backbone = Backbone("test_resnet")
    backbone.freeze(4, "frozen")
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    backbone.train()
    optimiser = torch.optim.SGD([p for p in backbone.parameters() if p.requires_grad], lr=0.1)
    backbone(torch.randn(2, 3, 65, 65)).square().mean().backward()
    optimiser.step()
    changed = {k for k, v in backbone.state_dict().items() if not torch.equal(v, before[k])}
    assert changed
    assert not any("running" in k or "bn" in k or k.startswith("network.conv1") for k in changed)
    assert any(k.startswith("network.layer4") for k in changed)
