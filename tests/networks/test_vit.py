from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from tagseg.errors import BadInput
from tagseg.networks.backbone import Backbone
from tagseg.networks.vit import Attention, Transformer
from tagseg.networks.vit_depth8 import NAME
from tagseg.networks.weights import CLASSIFIER


@pytest.fixture(params=["test_vit", "test_vit4"])
def network(request: Any) -> Transformer:
    return Transformer(request.param, "random", early=-2).eval()


def full(network: Transformer, images: torch.Tensor) -> list[torch.Tensor]:
    """Every block's attention `(B, H, n, n)`, by timm's own arithmetic with nothing fused."""
    found: list[torch.Tensor] = []
    hooks = []
    for block in network.network.blocks:
        block.attn.fused_attn = False
        hooks.append(block.attn.attn_drop.register_forward_hook(lambda _, __, output: found.append(output)))
    network(images)
    for hook in hooks:
        hook.remove()
    return found


def by_hand(network: Transformer, weights: list[torch.Tensor], factors: torch.Tensor | None = None) -> torch.Tensor:
    prefix = network.network.num_prefix_tokens
    means = torch.stack([w.mean(dim=1)[:, prefix:, prefix:] for w in weights], dim=1)
    return (means if factors is None else means * factors[:, :, None, None]).mean(dim=1)


def test_the_streamed_affinity_is_that_of_all_weights(network: Transformer):
    images = torch.randn(2, 3, *network.grid.fit(80, 48))
    with torch.no_grad():
        attention = network.tokens(images, attention=True).attention
        weights = full(network, images)
    assert attention is not None
    factors = torch.rand(2, network.blocks) * 2
    for given in (None, factors):
        expected = by_hand(network, weights, given)
        torch.testing.assert_close(attention.affinity(given), expected, atol=1e-6, rtol=0)
        rows = expected / expected.sum(dim=-1, keepdim=True)
        torch.testing.assert_close(attention.affinity(given, normalise=True), rows, atol=1e-6, rtol=0)


@pytest.mark.parametrize("channels", [1, 20, 81])
@pytest.mark.parametrize("normalise", [False, True])
def test_maps_are_spread_without_the_affinity(network: Transformer, channels: int, normalise: bool):
    images = torch.randn(2, 3, *network.grid.fit(64, 96))
    with torch.no_grad():
        attention = network.tokens(images, attention=True).attention
    assert attention is not None
    maps, factors = torch.randn(2, channels, *attention.grid), torch.rand(2, network.blocks)
    for given in (None, factors):
        found = attention.spread(maps, given, normalise=normalise)
        expected = (attention.affinity(given, normalise=normalise) @ maps.flatten(2).transpose(1, 2)).transpose(1, 2)
        torch.testing.assert_close(found.flatten(2), expected, atol=1e-5, rtol=1e-4)


def test_descriptions_of_blocks(network: Transformer):
    images = torch.randn(2, 3, *network.grid.fit(64, 64))
    with torch.no_grad():
        attention = network.tokens(images, attention=True).attention
    assert attention is not None
    logits = [
        (q @ k.transpose(2, 3)).mean(dim=(1, 2, 3)) for q, k in zip(attention.queries, attention.keys, strict=True)
    ]
    torch.testing.assert_close(attention.logit_means(), torch.stack(logits, dim=1), atol=1e-5, rtol=1e-4)
    prefix = network.network.num_prefix_tokens
    patches = attention.grid[0] * attention.grid[1]
    heads = attention.queries[0].shape[1]
    assert attention.logits(2).shape == (2, 2 * heads, patches, patches)
    torch.testing.assert_close(
        attention.logits(1), (attention.queries[-1] @ attention.keys[-1].transpose(2, 3))[:, :, prefix:, prefix:]
    )


def test_tokens_are_those_of_the_network(network: Transformer):
    images = torch.randn(2, 3, *network.grid.fit(64, 96))
    with torch.no_grad():
        found = network.tokens(images)
        torch.testing.assert_close(found.patches, network(images))
        early = network.network.forward_intermediates(images, indices=[network.early], intermediates_only=True)
        torch.testing.assert_close(found.early, early[0])
    assert found.summary.shape == (2, network.channels)
    assert found.attention is None


def test_sides_are_never_cropped():
    network = Transformer("test_vit", "random")
    with pytest.raises(BadInput, match="images of 50 x 48: sides must be multiples of the patch, 16 pixels"):
        network.tokens(torch.randn(1, 3, 50, 48))


def test_networks_without_plain_attention_are_refused():
    with pytest.raises(BadInput, match="'test_resnet' is no plain vision transformer"):
        Transformer("test_resnet", "random")
    with pytest.raises(BadInput, match="early block -9"):
        Transformer("test_vit", "random", early=-9)


def test_one_weighted_mean_of_equal_blocks():
    """Two blocks whose queries are all alike attend everywhere alike."""
    zeros = torch.zeros(1, 2, 5, 4)
    attention = Attention([zeros, zeros], [torch.randn(1, 2, 5, 4), torch.randn(1, 2, 5, 4)], 1, (2, 2))
    torch.testing.assert_close(attention.affinity(), torch.full((1, 4, 4), 0.2))
    torch.testing.assert_close(attention.affinity(torch.tensor([[2.0, 0.0]])), torch.full((1, 4, 4), 0.2))
    assert timm.is_model("test_vit")


def test_the_small_transformer_of_early_timm(tmp_path: Path):
    """8 blocks and 48.75 million weights with its classifier; scaled by the whole width as its weights expect."""
    network = Transformer(NAME, "random")
    assert (network.blocks, network.channels, network.stride) == (8, 768, 16)
    count = sum(p.numel() for p in network.parameters()) + 768 * 1000 + 1000
    assert count == pytest.approx(48.75e6, rel=1e-3)
    state = {**network.network.state_dict(), "head.weight": torch.zeros(1000, 768), "head.bias": torch.zeros(1000)}
    torch.save(state, tmp_path / "small.pth")
    loaded = Transformer(NAME, str(tmp_path / "small.pth")).eval()
    images = torch.randn(1, 3, 32, 48)
    with torch.no_grad():
        found = loaded.tokens(images, attention=True).attention
    block = network.eval().network.blocks[0]
    with torch.no_grad():
        tokens = block.norm1(network.network.norm_pre(network.network._pos_embed(network.network.patch_embed(images))))
        query, key, _ = block.attn.qkv(tokens).unflatten(2, (3, 8, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    assert found is not None
    expected = query @ key.transpose(2, 3) * 768**-0.5
    torch.testing.assert_close(found.queries[0] @ found.keys[0].transpose(2, 3), expected, atol=1e-5, rtol=1e-4)
    with pytest.raises(
        BadInput, match=r"no weights that could be fetched; give those of timm's first releases.* as a file"
    ):
        Transformer(NAME, "pretrained")


@pytest.mark.parametrize(
    "name", ["vit_small_patch16_dinov3", "eva02_tiny_patch14_224", "vit_medium_patch16_rope_reg1_gap_256"]
)
def test_attention_of_rotated_queries_and_keys(name: str):
    """Positions turn them before they meet; maps are spread along the attention that the network has."""
    network = Transformer(name, "random").eval()
    images = torch.randn(1, 3, *network.grid.fit(64, 48))
    with torch.no_grad():
        attention = network.tokens(images, attention=True).attention
        expected = by_hand(network, full(network, images))
    assert attention is not None
    torch.testing.assert_close(attention.affinity(), expected, atol=1e-6, rtol=0)
    fused = [block.attn.fused_attn for block in network.network.blocks]
    network.tokens(images, attention=True)
    assert [block.attn.fused_attn for block in network.network.blocks] == fused  # it came out as it went in


@pytest.mark.parametrize("name", ["beit_base_patch16_224", "vit_relpos_small_patch16_224", "xcit_nano_12_p16_224"])
def test_what_is_no_plain_transformer_is_refused_by_name(name: str):
    with pytest.raises(BadInput, match=f"'{name}' does not give .*choose another"):
        Transformer(name, "random")


def test_a_bias_by_position_is_refused():
    network = Transformer("test_vit", "random").eval()
    attend = torch.nn.functional.scaled_dot_product_attention
    biased = lambda x, *_, **__: attend(x, x, x, torch.zeros(x.shape[-2], x.shape[-2]))  # noqa: E731
    network.network.blocks[1].attn.forward = biased
    with pytest.raises(BadInput, match="a bias by position"):
        network.tokens(torch.randn(1, 3, 64, 64), attention=True)


@pytest.mark.parametrize("name", [NAME, "mit_b0", "resnet38"])
def test_a_network_of_our_own_goes_on_from_a_run_as_it_was(name: str, tmp_path: Path):
    """Published weights are renamed or scaled; those of a run are not, a second time."""
    before = Backbone(name, "random")
    state = {f"backbone.network.{key}": value for key, value in before.network.state_dict().items()}
    (tmp_path / CLASSIFIER).parent.mkdir()
    save_file(state, tmp_path / CLASSIFIER)
    (tmp_path / "run.json").write_text("{}")
    after = Backbone(name, str(tmp_path))
    for key, value in after.network.state_dict().items():
        assert torch.equal(value, before.network.state_dict()[key]), key
