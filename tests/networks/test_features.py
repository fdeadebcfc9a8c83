"""Frozen transformers of all shapes against timm's own forward, with random weights."""

from typing import Any

import pytest
import timm
import torch

from tagseg.errors import BadInput
from tagseg.networks.features import LEVELS, Levels

SHAPES = {  # name: patch
    "vit_tiny_patch16_224": 16,
    "deit_tiny_patch16_224": 16,
    "vit_small_patch14_dinov2": 14,
    "vit_small_patch14_reg4_dinov2": 14,
    "vit_small_patch16_dinov3": 16,  # rotary positions, registers
    "vit_base_patch32_clip_224": 32,  # a norm before the first block
}


@pytest.mark.parametrize(("name", "patch"), SHAPES.items())
def test_levels_are_the_blocks_of_timm_at_any_size(name: str, patch: int):
    torch.manual_seed(0)
    levels = Levels(name)
    own: Any = timm.create_model(name, num_classes=0, dynamic_img_size=True).eval()
    own.load_state_dict(levels.network.state_dict())
    seen: dict[int, torch.Tensor] = {}
    for number, block in enumerate(own.blocks):
        block.register_forward_hook(lambda _, __, output, n=number: seen.update({n: output}))
    assert levels.stride == patch
    assert not levels.grid.corners
    for size in ((5 * patch, 3 * patch), (2 * patch, 7 * patch)):
        images = torch.randn(2, 3, *size)
        with torch.no_grad():
            own.forward_features(images)
            found = levels(images)
        assert found.shape == (2, levels.channels, size[0] // patch, size[1] // patch)
        for number, level in zip(levels.levels, found.chunk(LEVELS, dim=1), strict=True):
            patches = seen[number][:, own.num_prefix_tokens :].transpose(1, 2).unflatten(2, level.shape[2:])
            torch.testing.assert_close(level, patches, atol=1e-5, rtol=1e-4)


def test_blocks_at_the_half_at_three_quarters_and_at_the_end():
    assert Levels("vit_tiny_patch16_224").levels == [5, 8, 11]


def test_nothing_of_it_learns_and_features_pass_through():
    levels = Levels("test_vit").train()
    assert not levels.training
    assert not any(p.requires_grad for p in levels.parameters())
    features = torch.randn(2, levels.channels, 3, 4)
    assert levels(features) is features


@pytest.mark.parametrize("name", ["test_resnet", "swin_tiny_patch4_window7_224"])
def test_what_is_no_plain_transformer_is_refused(name: str):
    with pytest.raises(BadInput, match="no plain vision transformer"):
        Levels(name)
