import pytest
import torch

from tagseg.errors import BadInput
from tagseg.networks.class_tokens import ClassTokenTransformer


def test_every_class_begins_as_the_class_token():
    torch.manual_seed(0)
    network = ClassTokenTransformer("test_vit", "random", 3).eval()
    images = torch.randn(2, 3, 48, 64)
    with torch.no_grad():
        one = network.with_classes(images)
        alone = ClassTokenTransformer("test_vit", "random", 1).eval()
        alone.network.load_state_dict(network.network.state_dict())
        alone.class_tokens.copy_(network.class_tokens[:1])
        # a single class token is the network as it is
        plain = alone.network.blocks(alone.network._pos_embed(alone.network.patch_embed(images)))
        seen = alone.with_classes(images)
    torch.testing.assert_close(seen.classes[-1], plain[:, :1])
    torch.testing.assert_close(seen.patches.flatten(2).transpose(1, 2), plain[:, 1:])
    assert seen.attention.prefix == 1
    assert one.patches.shape == (2, network.channels, 3, 4)
    assert torch.equal(one.classes[-1][:, 0], one.classes[-1][:, 2])  # nothing tells them apart yet
    assert one.logits.shape == (2, 3)


def test_what_attention_adds_is_summarised():
    network = ClassTokenTransformer("test_vit", "random", 2).eval()
    with torch.no_grad():
        seen = network.with_classes(torch.randn(1, 3, 32, 32), lambda added: added.amax(dim=1))
    assert [a.shape for a in seen.added] == [(1, network.channels)] * network.blocks
    assert not network.network.blocks[0].attn._forward_hooks


def test_blocks_are_left_out_while_it_learns_and_the_first_never_is():
    network = ClassTokenTransformer("test_vit", "random", 2, drop_path=0.5)
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in network.network.blocks]
    assert rates[0] == 0
    assert rates[-1] == pytest.approx(0.5)
    assert rates == sorted(rates)
    images = torch.randn(8, 3, 32, 32)
    with torch.no_grad():
        assert not torch.equal(network.with_classes(images).patches, network.with_classes(images).patches)
        network.eval()
        assert torch.equal(network.with_classes(images).patches, network.with_classes(images).patches)


@pytest.mark.parametrize("name", ["test_resnet", "eva02_tiny_patch14_224"])
def test_what_is_no_plain_transformer_is_refused(name: str):
    with pytest.raises(BadInput, match="plain vision transformer"):
        ClassTokenTransformer(name, "random", 2)
