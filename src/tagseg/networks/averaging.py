"""A moving average of a network, which teaches the network itself (Mean Teacher, Tarvainen and Valpola, NIPS 2017; as
in CoSA, Yang et al., ECCV 2024)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn


class MovingAverage:
    """The moving average of the parameters of some modules, which can stand in for them.

    Args:
        modules: whose parameters are averaged; those that do not learn are left alone.
        decay: how much of the average stays in a step; less in the first steps, in which it would lag behind.
    """

    def __init__(self, modules: Sequence[nn.Module], decay: float) -> None:
        self.decay = decay
        self.parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
        self.averages = [p.detach().clone() for p in self.parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Moves the average towards the parameters, after `step` steps of training."""
        decay = min(self.decay, (1 + step) / (10 + step))
        self.averages = [
            average.to(parameter.device).lerp_(parameter.detach(), 1 - decay)
            for average, parameter in zip(self.averages, self.parameters, strict=True)
        ]

    @contextmanager
    def standing_in(self) -> Iterator[None]:
        """Puts the average in the place of the parameters for a while; a backward pass must wait until it is over."""
        own = [parameter.data for parameter in self.parameters]
        try:
            for parameter, average in zip(self.parameters, self.averages, strict=True):
                parameter.data = average.to(parameter.device)
            yield
        finally:
            for parameter, data in zip(self.parameters, own, strict=True):
                parameter.data = data
