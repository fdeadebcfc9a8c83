"""Attention rollout."""

from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn

from tagseg.attribution import AttentionRollout
from tagseg.errors import BadInput


def by_hand(network: Any, images: torch.Tensor, blocks: Any) -> torch.Tensor:
    """The flow from plain attention matrices, by timm's own arithmetic with nothing fused."""
    found: list[torch.Tensor] = []
    hooks = [b.attn.attn_drop.register_forward_hook(lambda _, __, output: found.append(output)) for b in blocks]
    for block in blocks:
        block.attn.fused_attn = False
    with torch.no_grad():
        network(images)
    for hook, block in zip(hooks, blocks, strict=True):
        hook.remove()
        block.attn.fused_attn = True
    flow = torch.eye(found[0].shape[-1]).expand(len(images), -1, -1)
    for weights in found:
        flow = 0.5 * (weights.mean(dim=1) + torch.eye(weights.shape[-1])) @ flow
    return flow


@pytest.mark.parametrize(
    "name", ["vit_tiny_patch16_224", "vit_small_patch16_dinov3", "deit_tiny_distilled_patch16_224"]
)
def test_it_is_the_product_of_all_layers(name: str):
    torch.manual_seed(0)
    network = timm.create_model(name, img_size=64, num_classes=5).eval()
    images = torch.randn(2, 3, 64, 64)
    prefix = network.num_prefix_tokens
    expected = by_hand(network, images, network.blocks)[:, 0, prefix:].view(2, 1, 4, 4)
    found = AttentionRollout(network)(images, [1, 3])
    (maps,) = AttentionRollout(network).layer_maps(images, [1, 3])
    assert found.shape == (2, 2, 64, 64)
    assert maps.shape == (2, 2, 4, 4)
    torch.testing.assert_close(maps[:, :1], expected, atol=1e-6, rtol=1e-4)
    assert torch.equal(maps[:, 0], maps[:, 1])  # the same for every class


def test_without_a_class_token_all_patches_are_asked():
    torch.manual_seed(0)
    network = timm.create_model(
        "vit_tiny_patch16_224", img_size=64, num_classes=5, class_token=False, global_pool="avg"
    )
    images = torch.randn(1, 3, 64, 64)
    (maps,) = AttentionRollout(network.eval()).layer_maps(images, [0])
    expected = by_hand(network, images, network.blocks).mean(dim=1).view(1, 1, 4, 4)
    torch.testing.assert_close(maps, expected, atol=1e-6, rtol=1e-4)


def test_torchvision_and_a_network_in_training():
    torch.manual_seed(0)
    network = torchvision.models.VisionTransformer(
        image_size=64, patch_size=16, num_layers=3, num_heads=2, hidden_dim=32, mlp_dim=64, num_classes=5
    )
    nn.init.normal_(network.heads[0].weight)  # type: ignore[arg-type]
    flags = [p.requires_grad for p in network.parameters()]
    (maps,) = AttentionRollout(network.train()).layer_maps(torch.randn(2, 3, 64, 64), [[0], [1]])
    assert maps.shape == (2, 1, 4, 4)
    assert (maps > 0).all()
    assert (maps.sum(dim=(2, 3)) < 1).all()  # the rest is the class token's own
    assert network.training
    assert [p.requires_grad for p in network.parameters()] == flags


@pytest.mark.parametrize("name", ["test_resnet", "swin_tiny_patch4_window7_224", "pvt_v2_b0"])
def test_what_does_not_attend_between_all_tokens_is_refused(name: str):
    network = timm.create_model(name, num_classes=5).eval()
    with pytest.raises(BadInput, match=r"attention rollout: .*use layercam"):
        AttentionRollout(network)(torch.randn(1, 3, 224, 224), [0])


def test_it_is_one_of_the_methods_of_explain():
    from tagseg.explaining.table import ATTRIBUTIONS

    assert "rollout" in ATTRIBUTIONS
