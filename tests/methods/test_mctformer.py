"""MCTformer's maps and losses, written out.

Beside these, maps, logits, losses and gradients of all three versions were held against their published code
(xulianuwa/MCTformer, which has no licence, so that nothing of it is here): equal to 1e-6.
"""

import pytest
import torch
from torch.nn import functional as F

from tagseg.methods.mctformer import MCTformerPlus, MCTformerV1, MCTformerV2, ranked_mean, token_contrast_loss
from tests.conftest import names
from tests.methods.any_method import built


@pytest.mark.parametrize(("name", "blocks"), [("mctformer-v1", 3), ("mctformer-v2", 3), ("mctformer+", 12)])
def test_maps_are_attention_times_patches_spread(name: str, blocks: int):
    network = built(name, names(3)).eval()
    assert isinstance(network, MCTformerV1)
    images = torch.randn(2, 3, 48, 64)
    with torch.no_grad():
        seen = network.seen(images)
        weights = [
            (q @ k.transpose(2, 3)).softmax(dim=3).mean(dim=1)
            for q, k in zip(seen.attention.queries, seen.attention.keys, strict=True)
        ]
        assert weights[0].shape == (2, 3 + 12, 3 + 12)
        maps = torch.stack(weights[-blocks:]).mean(dim=0)[:, :3, 3:]
        if isinstance(network, MCTformerV2):
            maps = maps * network.head(seen.patches).relu().flatten(2)
        if isinstance(network, MCTformerPlus):
            maps = maps.sqrt()
        wanted = maps @ torch.stack(weights).mean(dim=0)[:, 3:, 3:].transpose(1, 2)
        torch.testing.assert_close(network.class_maps(images).flatten(2), wanted, rtol=1e-4, atol=1e-6)


def test_strong_places_weigh_more():
    maps = torch.tensor([[[[1.0, 4.0], [2.0, 3.0]]]])
    assert ranked_mean(maps, 0.5).item() == pytest.approx((4 + 3 / 2 + 2 / 4 + 1 / 8) / (1 + 1 / 2 + 1 / 4 + 1 / 8))
    torch.testing.assert_close(ranked_mean(maps, 1.0), maps.mean(dim=(2, 3)))


def test_padding_does_not_count():
    torch.manual_seed(0)
    maps = torch.randn(2, 3, 4, 5)
    inside = torch.zeros(2, 4, 5)
    inside[0, :, :3], inside[1] = 1, 1
    found = ranked_mean(maps, 0.9, inside)
    torch.testing.assert_close(found[:1], ranked_mean(maps[:1, :, :, :3], 0.9))
    torch.testing.assert_close(found[1:], ranked_mean(maps[1:], 0.9))


def test_tokens_of_tags_are_kept_apart():
    torch.manual_seed(0)
    tokens, tags = torch.randn(2, 3, 4, 5), torch.tensor([[1.0, 0, 1, 0], [0, 0, 0, 0], [0, 1, 0, 0]])
    total = 0.0
    for photograph, found in enumerate(tags):
        for block in tokens[:, photograph]:
            for tag in found.nonzero()[:, 0]:
                cosines = F.cosine_similarity(block[tag][None], block)
                total += float(F.cross_entropy(cosines[None], tag[None])) / float(found.sum())
    assert token_contrast_loss(tokens, tags).item() == pytest.approx(total / 2 / 3, rel=1e-5)
