"""A moving average that stands in for its network."""

import torch
from torch import nn

from tagseg.networks.averaging import MovingAverage


def test_it_follows_and_stands_in_while_gradients_wait():
    torch.manual_seed(0)
    layer = nn.Linear(3, 2)
    layer.bias.requires_grad_(False)
    average = MovingAverage([layer], decay=0.9)
    before = layer.weight.detach().clone()
    output = layer(torch.ones(1, 3)).square().sum()
    with torch.no_grad():
        layer.weight.data = layer.weight + 1  # another storage, as an optimiser's step in place is not
    with torch.no_grad(), average.standing_in():
        torch.testing.assert_close(layer.weight, before)
    torch.testing.assert_close(layer.weight, before + 1)
    output.backward()
    assert layer.weight.grad is not None
    average.update(step=1000)
    torch.testing.assert_close(average.averages[0], before + 0.1)
    average.update(step=0)  # at first it does not lag behind
    torch.testing.assert_close(average.averages[0], before + 0.1 + 0.9 * 0.9)
