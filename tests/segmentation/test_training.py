import math

import pytest
import torch
from torch.nn import functional as F

from tagseg.grid import Grid
from tagseg.networks.backbone import Backbone
from tagseg.networks.settings import DecoderSettings
from tagseg.segmentation.decoder import Decoder, DecoderTraining
from tagseg.segmentation.deeplab import DeepLab
from tagseg.segmentation.losses import balanced_by_photograph, tag_loss
from tagseg.segmentation.settings import SegmentSettings
from tagseg.segmentation.training import SegmentationTraining, segmentation_loss


def test_loss_is_the_mean_over_labelled_pixels():
    logits, masks = torch.randn(2, 4, 5, 6), torch.randint(0, 4, (2, 5, 6))
    masks[0, :3] = 255
    expected = F.cross_entropy(logits.movedim(1, -1)[masks != 255], masks[masks != 255])
    torch.testing.assert_close(segmentation_loss(logits, masks), expected)


def test_nothing_labelled_is_zero_and_moves_nothing():
    logits = torch.randn(1, 4, 5, 6, requires_grad=True)
    loss = segmentation_loss(logits, torch.full((1, 5, 6), 255))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.abs().max() == 0


@pytest.mark.parametrize(("corners", "side"), [(True, 33), (False, 32)])
def test_labels_are_taken_where_the_interpolated_logits_lie(corners: bool, side: int):
    """A ramp sampled as masks are equals the same ramp made at a coarse grid and interpolated."""
    column = torch.arange(side).expand(1, side, side)
    labels = Grid(4, corners).sample(column)
    cells = torch.arange(side // 16 + corners, dtype=torch.float32) * 16 + (0 if corners else 7.5)
    coarse = cells.expand(1, 1, len(cells), len(cells))
    ramp = Grid(16, corners).resize(coarse, tuple(labels.shape[-2:]))
    inner = slice(None) if corners else slice(2, -2)
    assert (labels[0, :, inner] - ramp[0, 0, :, inner]).abs().max() <= 0.5


@pytest.mark.parametrize("head", ["aspp", "largefov"])
@pytest.mark.parametrize("size", [(33, 49), (65, 33)])
def test_both_heads_keep_the_grid(head: str, size: tuple[int, int]):
    network = DeepLab(Backbone("test_resnet", output_stride=16), head, 5).eval()
    logits = network(torch.randn(2, 3, *size))
    assert logits.shape == (2, 6, (size[0] - 1) // 16 + 1, (size[1] - 1) // 16 + 1)
    assert network.logits_at(torch.randn(1, 3, *size), size).shape == (1, 6, *size)


@pytest.mark.parametrize(("stride", "dilations"), [(8, (6, 12, 18, 24)), (16, (3, 6, 9, 12))])
def test_aspp_spans_the_published_pixels(stride: int, dilations: tuple[int, ...]):
    network = DeepLab(Backbone("test_resnet", output_stride=stride), "aspp", 5)
    assert tuple(branch.dilation[0] for branch in network.head.branches) == dilations


def test_several_sizes_teach_at_the_published_stride(monkeypatch: pytest.MonkeyPatch):
    """DeepLab's MSC: losses at 1, 0.75 and 0.5 of the size, and of the largest logits, at a stride of 8."""
    network = DeepLab(Backbone("test_resnet", output_stride=8), "aspp", 3).eval()
    settings = SegmentSettings(loss_stride=8, multi_scale=True)
    batch = {"image": torch.randn(2, 3, 65, 65), "mask": torch.randint(0, 4, (2, 65, 65))}
    told = SegmentationTraining(network, settings, 1)
    monkeypatch.setattr(told, "log", lambda *_: None)
    labels = batch["mask"][:, ::8, ::8]
    seen = []
    for side in (65, 49, 33):
        image = F.interpolate(batch["image"], (side, side), mode="bilinear", align_corners=True)
        seen.append(F.interpolate(network(image), (9, 9), mode="bilinear", align_corners=True))
    seen.append(torch.stack(seen).amax(dim=0))
    expected = sum(F.cross_entropy(logits, labels) for logits in seen)
    torch.testing.assert_close(told.training_step(batch, 0), expected, rtol=0.02, atol=0)
    plain = SegmentationTraining(network, SegmentSettings(loss_stride=8), 1)
    monkeypatch.setattr(plain, "log", lambda *_: None)
    torch.testing.assert_close(plain.training_step(batch, 0), F.cross_entropy(seen[0], labels), rtol=1e-4, atol=0)


def test_biases_of_the_head_learn_twenty_times_faster():
    network = DeepLab(Backbone("test_resnet", output_stride=16), "aspp", 3)
    settings = SegmentSettings(optimiser="sgd", learning_rate=0.001, bias_factor=2, weight_decay=0.0005)
    groups = SegmentationTraining(network, settings, 10).configure_optimizers()["optimizer"].param_groups
    rates = {id(p): (round(g["lr"] / 0.001), g["weight_decay"]) for g in groups for p in g["params"]}
    branch = network.head.branches[0]
    assert rates[id(branch.weight)] == (10, 0.0005)
    assert rates[id(branch.bias)] == (20, 0.0)
    assert {rates[id(p)] for p in network.backbone.parameters() if p.ndim > 1} == {(1, 0.0005)}


def test_tags_must_be_found_somewhere_in_the_photograph():
    logits = torch.zeros(2, 3, 6, 10)
    logits[0, 1, 2:4, 3:5] = 9.0  # class 0 is found in four places
    logits[1, 2, :, 8:] = 9.0  # class 1 beside the photograph only
    inside = torch.ones(2, 6, 10, dtype=torch.bool)
    inside[1, :, 8:] = False
    found = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    other = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    loss = tag_loss(logits, found, inside)
    # two of 60 places count: one class at 9, the three others at 0
    assert loss == pytest.approx((math.log1p(math.exp(-9)) + 3 * math.log(2)) / 4, abs=1e-4)
    assert tag_loss(logits, other, inside) > loss + 2


def test_rare_labels_of_a_photograph_weigh_more():
    masks = torch.zeros(3, 4, 4, dtype=torch.int64)
    masks[0, 0, 0] = 2  # 1 of 2, 15 of 0
    masks[1, :2] = 1
    masks[1, 3] = 255  # 8 of 1, 4 of 0, 4 unknown
    masks[2] = 255
    alike = balanced_by_photograph(masks, 3, 0.0)
    assert torch.equal(alike, (masks != 255).float())
    even = balanced_by_photograph(masks, 3, 1.0)
    assert even[0, 0, 0].item() == pytest.approx(8)
    assert even[0].sum().item() == pytest.approx(16)
    assert even[1, :2].sum().item() == even[1, 2].sum().item() == pytest.approx(6)
    half = balanced_by_photograph(masks, 3, 0.5)
    assert (half[0, 0, 0] / half[0, 1, 1]).item() == pytest.approx(15**0.5)
    assert not half[2].any()
    logits = torch.randn(3, 3, 4, 4)
    entropy = F.cross_entropy(logits, masks, ignore_index=255, reduction="none")
    torch.testing.assert_close(segmentation_loss(logits, masks, 0.5), (entropy * half).sum() / (masks != 255).sum())


def test_a_decoder_learns_from_tags_where_masks_say_nothing():
    torch.manual_seed(0)
    head = Decoder(9, 3, 8, 0).eval()
    settings = DecoderSettings(tags=1.0)
    module = DecoderTraining(head, settings, 10)
    module.log = lambda *_, **__: None  # type: ignore[method-assign]
    batch = {
        "image": torch.randn(2, 9, 6, 6),
        "mask": torch.full((2, 12, 12), 255),
        "tags": torch.tensor([[1.0, 0.0], [0.0, 1.0]]),
        "inside": torch.tensor([[0, 6, 0, 6], [0, 4, 2, 6]]),
    }
    module.training_step(batch, 0).backward()
    assert head.exit.weight.grad.abs().sum() > 0
    before = DecoderTraining(head, DecoderSettings(), 10)
    before.log = lambda *_, **__: None  # type: ignore[method-assign]
    assert before.training_step(batch, 0) == 0
