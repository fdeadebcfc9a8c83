import json

import pytest
import timm
import torch
from torchvision import models

from tagseg.attribution import LayerCAM
from tagseg.attribution.layers import find_layers
from tagseg.attribution.reading import guessed
from tagseg.errors import BadInput
from tests.attribution.sweep import TABLE, difference, found

TIMM = {
    "vgg11": ["features.1", "features.4", "features.9", "features.14", "features.19"],
    "resnet18": ["layer1", "layer2", "layer3", "layer4"],
    "mobilenetv2_100": [*(f"blocks.{n}.0.bn1.act" for n in (1, 2, 3, 5)), "bn2"],
    "efficientnet_b0": [*(f"blocks.{n}.0.bn1.act" for n in (1, 2, 3, 5)), "bn2"],
    "convnext_atto": ["stages.0", "stages.1", "stages.2", "norm_pre"],
    "swin_tiny_patch4_window7_224": ["layers.0", "layers.1", "layers.2", "norm"],
    "vit_tiny_patch16_224": [f"blocks.{n}.norm1" for n in (8, 9, 10, 11)],
    "deit_tiny_distilled_patch16_224": [f"blocks.{n}.norm1" for n in (8, 9, 10, 11)],
}
TORCHVISION = {
    "vgg11_bn": ["features.2", "features.6", "features.13", "features.20", "features.27"],
    "resnet18": ["layer1", "layer2", "layer3", "layer4"],
    "mobilenet_v2": [*(f"features.{n}.conv.0.2" for n in (2, 4, 7, 14)), "features.18"],
    "efficientnet_b0": [*(f"features.{n}.0.block.0.2" for n in (2, 3, 4, 6)), "features.8"],
    "convnext_tiny": ["features.1", "features.3", "features.5", "features.7"],
    "swin_t": ["features.1", "features.3", "features.5", "permute"],
    "vit_b_16": [f"encoder.layers.encoder_layer_{n}.ln_1" for n in (8, 9, 10, 11)],
}


@pytest.mark.parametrize(
    ("library", "name", "expected"),
    [("timm", *item) for item in TIMM.items()] + [("torchvision", *item) for item in TORCHVISION.items()],
)
def test_stages_of_known_networks(library: str, name: str, expected: list[str]):
    model = timm.create_model(name) if library == "timm" else models.get_model(name, weights=None)
    side = 224 if any(kind in name for kind in ("vit", "swin", "deit")) else 128
    found = find_layers(model.eval(), "stages", torch.randn(1, 3, side, side))
    assert [layer.name for layer in found] == expected


@pytest.mark.parametrize("name", ["resnet18", "swin_tiny_patch4_window7_224", "vit_tiny_patch16_224"])
def test_maps_of_every_kind_of_grid(name: str):
    model = timm.create_model(name)
    attribution = LayerCAM(model, "stages")
    maps = attribution.layer_maps(torch.randn(1, 3, 224, 224), [3, 7])
    assert all(m.shape[:2] == (1, 2) and m.shape[2] == m.shape[3] and m.max() > 0 for m in maps)


def test_tokens_of_an_oblong_image():
    model = timm.create_model("vit_tiny_patch16_224", dynamic_img_size=True)
    maps = LayerCAM(model, "blocks.5").layer_maps(torch.randn(1, 3, 96, 160))
    assert maps[0].shape == (1, 1, 6, 10)


@pytest.mark.parametrize(
    ("shape", "size", "grid"),
    [
        ((1, 56, 7, 9), (224, 288), (7, 9)),
        ((1, 7, 9, 56), (224, 288), (7, 9)),
        ((1, 64, 56), (128, 128), (8, 8)),
        ((1, 65, 56), (128, 128), (8, 8)),
        ((1, 69, 56), (128, 128), (8, 8)),
        ((1, 281, 5), (224, 320), (14, 20)),
    ],
)
def test_grids_are_told_from_tokens_and_channels(shape: tuple[int, ...], size: tuple[int, int], grid: tuple[int, int]):
    values = torch.arange(torch.tensor(shape).prod()).float().view(shape)
    found = guessed(values, size, "layer")
    assert found.shape[2:] == grid
    assert found.flatten()[-1] == values.flatten()[-1]


def test_what_is_no_grid_is_refused():
    with pytest.raises(BadInput, match="neither a grid"):
        guessed(torch.zeros(1, 3, 5), (224, 224), "layer")


@pytest.mark.parametrize(
    "name", ["test_vit", "test_convnext", "test_coatnet", "test_nfnet", "test_byobnet", "test_mambaout"]
)
def test_the_sweep_in_short(name: str):
    """`python -m tests.attribution.sweep` goes through all families."""
    model, image, layers = found(name)
    assert [layer.name for layer in layers] == json.loads(TABLE.read_text(encoding="utf-8"))[name]
    assert difference(model, layers[-1], image) < 1e-5


def test_a_stage_that_is_not_too_coarse():
    model = timm.create_model("mobilenetv2_100").eval()
    stages = find_layers(model, "stages", torch.randn(1, 3, 224, 224))
    assert find_layers(model, "sharp", torch.randn(1, 3, 224, 224)) == stages[3:4]
    assert find_layers(model, "sharp", torch.randn(1, 3, 448, 448))[0].name == "bn2"
    assert find_layers(model, "sharp", torch.randn(1, 3, 32, 32))[0].name == stages[0].name
