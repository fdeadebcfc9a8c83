"""Changed copies of a layer's output against the network run by hand."""

import pytest
import torch

from tagseg.attribution.ablation import drops, rerun, rerun_all
from tagseg.attribution.gap import Decision, Recorder
from tests.attribution.networks import Plain
from tests.attribution.test_hierarchy import Unbiased, images


def nothing(_: torch.Tensor) -> None:
    return None


@pytest.mark.parametrize("mean", ["map", "data"])
def test_drops_are_those_of_the_network_with_one_channel_replaced(mean):
    model, image = Plain().eval(), images()
    recording = Recorder(model)(image)
    means = torch.linspace(0, 1, 12) if mean == "data" else None
    decisions = [Decision(2, 3, 4, 5), Decision(2, 9, 0, 0)]
    found = drops(model, recording, image, decisions, 1, means=means)
    scores = drops(model, recording, image, [recording.score(0, 2)], 1, means=means)
    with torch.no_grad():
        middle = model.stage2[1](model.stage2[0](model.stage1(image)))
        whole = model.stage3(model.stage2[2](middle))
        for channel in (0, 7, 11):
            changed = middle.clone()
            changed[:, channel] = middle[:, channel].mean() if means is None else means[channel]
            deep = model.stage3(model.stage2[2](changed))
            for row, d in zip(found, decisions, strict=True):
                fall = whole[0, d.channel, d.y, d.x] - deep[0, d.channel, d.y, d.x]
                assert row[channel].item() == pytest.approx(fall.item(), abs=1e-5)
            said = model.fc(model.pool(deep).flatten(1))[0, 2]
            assert scores[0, channel].item() == pytest.approx(recording.scores[0, 2].item() - said.item(), abs=1e-5)


def test_a_linear_network_falls_by_what_the_maps_say():
    model, image = Unbiased().eval(), images()
    recording = Recorder(model)(image)
    score = recording.score(0, 1)
    nothing_left = drops(model, recording, image, [score], 2, means=torch.zeros(16))[0]
    torch.testing.assert_close(recording.parts([score])[0].maps.sum(dim=(1, 2)), nothing_left, atol=1e-5, rtol=1e-4)
    assert drops(model, recording, image, [score], 2).abs().max() < 1e-5  # a map's mean is all that the score sees


def test_the_network_stops_where_it_is_asked_and_is_left_as_it_was():
    model, image = Unbiased(torch.nn.ReLU6).train(), images()
    called = []
    model.linear.register_forward_hook(lambda *_: called.append(1))
    recording = Recorder(model)(image)
    called.clear()
    deep = rerun(model, recording, image, 0, 3, nothing, read=2)
    assert deep.shape == (3, 16, 8, 8)
    torch.testing.assert_close(deep.clamp(0, 6)[1:2], recording.features(2))
    assert not called
    assert model.training
    assert all(not module._forward_pre_hooks for module in model.modules())
    scores = rerun_all(model, recording, image, 2, {0: nothing, 2: lambda grid: grid.mul_(0.5)})
    torch.testing.assert_close(scores, 0.5 * recording.scores.detach().expand(2, -1), atol=1e-5, rtol=1e-4)
