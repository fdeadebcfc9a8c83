"""gAP and trees of evidence: against autograd by hand, identities, and one picture against a batch."""

import numpy as np
import pytest
import torch
from torch import nn

from tagseg.attribution import formulas
from tagseg.attribution.gap import Decision, Recorder
from tagseg.attribution.hierarchy import Hierarchy, Tree, cells_of, field_box, strongest
from tagseg.errors import BadInput
from tests.attribution.networks import ClassConvolution, Plain, Pooled


class Unbiased(nn.Module):
    """Three stages of convolutions and ReLUs without biases: a homogeneous function of every layer."""

    def __init__(self, act: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), act(), nn.MaxPool2d(2))
        self.stage2 = nn.Sequential(nn.Conv2d(8, 12, 3, padding=1, bias=False), act(), nn.MaxPool2d(2))
        self.stage3 = nn.Sequential(nn.Conv2d(12, 16, 3, padding=1, bias=False), act())
        self.linear = nn.Linear(16, 5, bias=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.linear(self.stage3(self.stage2(self.stage1(images))).mean(dim=(2, 3)))


def images(count: int = 1, side: int = 32) -> torch.Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(7))


def test_parts_are_gradient_times_activation():
    model = Plain().eval()
    recording = Recorder(model)(images(2))
    assert [layer.name for layer in recording.layers] == ["stage1.1", "stage2.1", "stage3"]
    x = model.stage2[1](model.stage2[0](model.stage1(images(2)))).detach().requires_grad_()
    deep = model.stage3(model.stage2[2](x))
    decisions = [Decision(2, 3, 4, 5, image=1), Decision(2, 7, 0, 1, image=0), Decision(2, 3, 2, 2, image=1)]
    for decision, parts in zip(decisions, recording.parts(decisions), strict=True):
        value = deep[decision.image, decision.channel, decision.y, decision.x]
        gradient = torch.autograd.grad(value, x, retain_graph=True)[0][decision.image]
        maps = gradient * x[decision.image]
        torch.testing.assert_close(parts.maps, maps.detach(), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(parts.contributions, maps.mean(dim=(1, 2)).detach(), atol=1e-6, rtol=1e-4)
        assert parts.value == pytest.approx(value.item(), abs=1e-5)
        for channel in range(12):
            y, x_ = parts.peaks[channel].tolist()
            assert parts.maps[channel, y, x_] == parts.maps[channel].max()


def test_contributions_of_a_layer_that_feeds_the_score_linearly_sum_to_it():
    model = Pooled().eval()
    recording = Recorder(model, "last")(images())
    parts = recording.parts([recording.score(0, 2)])[0]
    score = recording.scores[0, 2].item() - model.linear.bias[2].item()
    assert float(parts.maps.sum()) == pytest.approx(score, abs=1e-5)
    assert float(parts.contributions.sum()) * parts.maps[0].numel() == pytest.approx(score, abs=1e-5)


def test_without_biases_every_decision_is_the_sum_of_its_parts():
    recording = Recorder(Unbiased().eval())(images())
    deepest = recording.features(2)[0]
    channel = int(deepest.amax(dim=(1, 2)).argmax())
    y, x = divmod(int(deepest[channel].argmax()), deepest.shape[2])
    for decision in (recording.score(0, 1), Decision(2, channel, y, x)):
        for level in range(decision.level):
            parts = recording.parts([decision], level)[0]
            assert abs(float(parts.maps.sum())) == pytest.approx(parts.value, rel=1e-4)
            assert abs(float(parts.shares.sum())) == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize("model", [ClassConvolution(), Unbiased()])
def test_maps_summed_over_channels_are_grad_cam(model):
    recording = Recorder(model.eval(), "last")(images())
    parts = recording.parts([recording.score(0, 1)])[0]
    grad_cam = formulas.grad_cam(recording.features(0), parts.gradients[None])[0]
    torch.testing.assert_close(parts.maps.sum(dim=0).relu(), grad_cam, atol=1e-6, rtol=1e-4)


def flat(tree: Tree) -> list[tuple]:
    return [(path, node.level, node.channel, node.y, node.x, node.merged) for path, node in tree.nodes()]


@pytest.mark.parametrize("pixels", [False, True])
def test_the_tree_is_the_same_alone_and_in_a_batch(pixels):
    model, batch = Plain().eval(), images(3)
    together = Hierarchy(model, top=2)(batch, [[1, 2], [0, 4], [3, 1]], pixels=pixels)
    for number, classes in enumerate(([1, 2], [0, 4], [3, 1])):
        alone = Hierarchy(model, top=2)(batch[number : number + 1], [classes], pixels=pixels)[0]
        for one, other in zip(alone, together[number], strict=True):
            assert flat(one) == flat(other)
            for (_, a), (_, b) in zip(one.nodes(), other.nodes(), strict=True):
                np.testing.assert_allclose(a.map, b.map, atol=1e-5)
                assert a.contribution == pytest.approx(b.contribution, abs=1e-6)
                assert a.box == b.box
                assert (a.pixels is not None) == pixels


def test_a_tree_goes_down_stage_by_stage_and_children_explain_their_parents():
    hierarchy = Hierarchy(Unbiased().eval(), top=3)
    tree = hierarchy(images(), [2])[0][0]
    nodes = dict(tree.nodes())
    assert {len(path): {n.level for p, n in nodes.items() if len(p) == len(path)} for path in nodes} == {
        1: {2},
        2: {1},
        3: {0},
    }
    recording = hierarchy.recorder(images())
    for path, node in nodes.items():
        if node.children:
            parts = recording.parts([Decision(*node.decision)])[0]
            best = parts.contributions.topk(1).indices.item()
            assert node.children[0].channel == best
            assert node.children[0].contribution == pytest.approx(float(parts.contributions[best]), abs=1e-6)
        assert len(node.children) <= 3
        assert len(path) == 3 or node.children
    contributions = [node.contribution for node in tree.children]
    assert contributions == sorted(contributions, reverse=True)


def test_levels_bound_the_depth():
    tree = Hierarchy(Plain().eval(), top=2, levels=1)(images())[0][0]
    assert {len(path) for path, _ in tree.nodes()} == {1}
    deeper = Hierarchy(Plain().eval(), top=2, levels=9)(images())[0][0]
    assert max(len(path) for path, _ in deeper.nodes()) == 3


def test_overlapping_channels_are_merged_into_the_stronger_one():
    maps = torch.zeros(4, 6, 6)
    maps[0, :3] = 1.0
    maps[1, :3] = 2.0  # the same cells, stronger
    maps[2, 3:] = 0.5
    maps[3, :3, :5] = -1.0  # speaks against the decision
    contributions = maps.mean(dim=(1, 2))
    assert strongest(maps, contributions, top=3) == [(1, (0,)), (2, ())]
    assert strongest(maps, contributions, top=3, overlap=1.0) == [(1, ()), (0, ()), (2, ())]
    assert strongest(maps, contributions, top=1) == [(1, (0,))]
    assert strongest(-maps.abs(), -maps.abs().mean(dim=(1, 2)), top=3) == []
    assert cells_of(maps)[0].sum() == 18
    assert not cells_of(maps)[3].any()


def test_what_a_clip_hides_is_decomposed_before_the_clip():
    model = Unbiased(nn.ReLU6).eval()
    with torch.no_grad():
        model.stage3[0].weight.mul_(200)  # everything that fires is clipped
    recording = Recorder(model, ["stage2.1", "stage3.1"])(images())
    deepest = recording.features(1)[0]
    channel = int((deepest == 6).sum(dim=(1, 2)).argmax())
    y, x = divmod(int(deepest[channel].argmax()), deepest.shape[2])
    assert deepest[channel, y, x] == 6
    parts = recording.parts([Decision(1, channel, y, x)])[0]
    assert parts.value > 6
    assert float(parts.maps.sum()) == pytest.approx(parts.value, rel=1e-4)


def test_a_feature_below_zero_is_decomposed_with_its_sign_taken_out():
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.Tanh(), nn.Conv2d(6, 4, 3, padding=1, bias=False), nn.Tanh()
    )
    whole = nn.Sequential(model, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()
    recording = Recorder(whole, ["0.1", "0.2"])(images())
    low = recording.features(1)[0]
    channel, cell = divmod(int(low.flatten().argmin()), low[0].numel())
    parts = recording.parts([Decision(1, channel, *divmod(cell, low.shape[2]))])[0]
    assert parts.value == pytest.approx(-float(low.min()), rel=1e-4)
    assert float(parts.maps.sum()) == pytest.approx(parts.value, rel=1e-3)


def test_guided_gradients_reach_the_pixels_and_only_the_field_of_the_peak():
    tree = Hierarchy(Plain().eval(), top=2)(images(), pixels=True)[0][0]
    for _, node in tree.nodes():
        assert node.pixels.shape == (32, 32)
        assert node.pixels.max() == pytest.approx(1) or not node.pixels.any()
        x0, y0, x1, y1 = node.box
        assert 0 <= x0 < x1 <= 32
        assert 0 <= y0 < y1 <= 32
        if node.level == 0:  # one 3 x 3 convolution
            assert (y1 - y0) <= 3
            assert node.y - 1 <= y0 <= node.y + 1


def test_guided_gradients_of_a_network_with_clipped_rectifiers():
    recording = Recorder(Unbiased(nn.ReLU6).eval())(images(), guided=True)
    gradient = recording.pixel_gradients([recording.score(0, 0)])
    assert gradient.abs().sum() > 0


def test_the_network_is_left_as_it_was():
    model = Plain().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    Hierarchy(model)(images(), pixels=True)
    assert model.training
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_field_boxes_hold_their_share():
    magnitude = np.zeros((20, 30))
    assert field_box(magnitude) == (0, 0, 30, 20)
    magnitude[5:9, 12:13] = 1
    assert field_box(magnitude) == (12, 5, 13, 9)
    magnitude[0, 0] = 0.01  # less than the tail
    assert field_box(magnitude) == (12, 5, 13, 9)
    assert field_box(magnitude, share=1.0) == (0, 0, 13, 9)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"top": 0}, "top 0"), ({"overlap": 0.0}, "overlap"), ({"levels": 0}, "levels 0"), ({"layers": ["no"]}, "no")],
)
def test_what_does_not_fit_is_told(options, words):
    with pytest.raises(BadInput, match=words):
        Hierarchy(Plain().eval(), **options)(images())


def test_decisions_that_do_not_fit_are_told():
    recording = Recorder(Plain().eval())(images())
    with pytest.raises(BadInput, match="class 9 is out of range"):
        recording.score(0, 9)
    with pytest.raises(BadInput, match="of one level"):
        recording.parts([recording.score(0, 0), Decision(1, 0)])
    with pytest.raises(BadInput, match="can be decomposed to"):
        recording.parts([recording.score(0, 0)], level=3)
    with pytest.raises(BadInput, match="guided=True"):
        recording.pixel_gradients([recording.score(0, 0)])
    wrong = Recorder(Plain().eval(), ["stage3", "stage1.1"])(images())
    with pytest.raises(BadInput, match="does not depend"):
        wrong.parts([Decision(1, 0)])


def test_one_batched_backward_pass_gives_the_same():
    recording = Recorder(Plain().eval())(images(2))
    decisions = [Decision(2, 3, 4, 5), Decision(2, 9, 1, 1, image=1), Decision(2, 0, 7, 7), Decision(2, 3, 2, 5)]
    picked = recording._picked(decisions)
    together = recording._of_sums(picked, recording.activations[1], "")
    for value, gradient in zip(picked, together, strict=True):
        alone = torch.autograd.grad(value, recording.activations[1], retain_graph=True)[0]
        torch.testing.assert_close(gradient, alone)
