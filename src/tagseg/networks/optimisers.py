"""The ways of this field to descend: AdamW or SGD with poly decay, and SGD by steps; all with a faster head."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import nn


def poly_optimiser(
    backbone: nn.Module,
    head: nn.Module,
    *,
    kind: Literal["adamw", "sgd"],
    learning_rate: float,
    head_factor: float,
    weight_decay: float,
    steps: int,
    more: Sequence[tuple[nn.Module, float]] = (),
    warmup: int = 0,
    power: float = 0.9,
    decay_all: bool = False,
    hold: float = 0.0,
    bias_factor: float = 1.0,
) -> dict[str, Any]:
    """Returns optimiser and per-step schedule with poly decay, as Lightning takes them.

    The schedule is `min((step + 1) / (warmup + 1), 1) * (1 - step / steps) ** power`; the share `hold` of the steps is
    at the full rate first, and what is left falls like that. The head learns `head_factor` times faster, each of `more`
    by its own factor; norms and biases `bias_factor` times faster still, and they are not decayed unless `decay_all` is
    set. SGD has momentum 0.9 (the published "poly optimiser" of PSA and IRN loses its momentum to a slip: divide its
    rates by ten).
    """
    groups = []
    for module, factor in ((backbone, 1.0), (head, head_factor), *more):
        weights, others = _weights_and_others(module)
        for times, decay, members in (
            (1.0, weight_decay, weights),
            (bias_factor, weight_decay * decay_all, others),
        ):
            if members:
                groups.append({"params": members, "lr": learning_rate * factor * times, "weight_decay": decay})
    optimiser: torch.optim.Optimizer = (
        torch.optim.AdamW(groups) if kind == "adamw" else torch.optim.SGD(groups, momentum=0.9)
    )

    def rate(step: int) -> float:
        held = hold * steps
        fallen = max(0.0, step - held) / max(1.0, steps - held)
        return min((step + 1) / (warmup + 1), 1.0) * max(0.0, 1 - fallen) ** power

    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, rate)
    return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def two_stage_optimiser(
    groups: Sequence[tuple[nn.Module, float, float]],
    *,
    kind: Literal["adamw", "sgd"],
    weight_decay: float,
    first: int,
    steps: int,
    power: float = 0.9,
) -> dict[str, Any]:
    """Returns optimiser and per-step schedule of two trainings one after the other, as Lightning takes them.

    In each of them rates fall by poly decay. SGD has momentum 0.9.

    Args:
        groups: modules, with the rate at which they begin the first training and the second.
        kind, weight_decay: of the optimiser; norms and biases are not decayed.
        first: steps of the first training.
        steps: of both.
        power: of the decay.
    """
    members: list[dict[str, Any]] = []
    falls = []

    def of_start(step: int) -> float:
        if step < first:
            return (1 - step / first) ** power
        return max(0.0, 1 - (step - first) / max(1, steps - first)) ** power

    def fall(share: float) -> Callable[[int], float]:
        def rate(step: int) -> float:
            return (1 - share if step < first else share) * of_start(step)

        rate.of_start = of_start  # type: ignore[attr-defined]  # what is told of it: each training has its own start
        return rate

    for module, before, after in groups:
        weights, others = _weights_and_others(module)
        for parameters, decay in ((weights, weight_decay), (others, 0.0)):
            if parameters:
                members.append({"params": parameters, "lr": before + after, "weight_decay": decay})
                falls.append(fall(after / (before + after)))
    optimiser: torch.optim.Optimizer = (
        torch.optim.AdamW(members) if kind == "adamw" else torch.optim.SGD(members, momentum=0.9)
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, falls)
    return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def cosine_optimiser(
    backbone: nn.Module,
    head: nn.Module,
    *,
    learning_rate: float,
    head_factor: float,
    weight_decay: float,
    steps: int,
    warmup: int,
    lowest: float,
    kept: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Returns AdamW whose rate rises and then falls as half a cosine, as Lightning takes it (the recipe of DeiT).

    Args:
        backbone, head: what learns; the head `head_factor` times faster.
        learning_rate: at its highest.
        weight_decay: of all but norms, biases and what is `kept`.
        steps: of the whole training.
        warmup: steps in which it rises from a hundredth.
        lowest: share of the rate at which it ends.
        kept: ends of the names of parameters that are not decayed.
    """
    groups = []
    for module, factor in ((backbone, 1.0), (head, head_factor)):
        decayed, free = _weights_and_others(module, kept)
        for decay, members in ((weight_decay, decayed), (0.0, free)):
            if members:
                groups.append({"params": members, "lr": learning_rate * factor, "weight_decay": decay})

    def rate(step: int) -> float:
        if step < warmup:
            return 0.01 + 0.99 * step / warmup
        share = (step - warmup) / max(1, steps - warmup)
        return lowest + (1 - lowest) * (1 + math.cos(math.pi * min(1.0, share))) / 2

    optimiser = torch.optim.AdamW(groups)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, rate)
    return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def step_optimiser(
    backbone: nn.Module,
    head: nn.Module,
    *,
    learning_rate: float,
    weight_decay: float,
    steps: int,
    drops: Sequence[float] = (2 / 3,),
    head_factor: float = 10.0,
) -> dict[str, Any]:
    """Returns the Caffe recipe, as Lightning takes it.

    It is Nesterov SGD whose rate falls to a tenth after each of the shares `drops` of all steps. The head learns
    `head_factor` times faster, and norms and biases of either twice as fast.
    """

    def rate(step: int) -> float:
        return 0.1 ** sum(step >= drop * steps for drop in drops)

    return _four_rates(backbone, head, learning_rate, weight_decay, rate, head_factor)


def poly_step_optimiser(
    backbone: nn.Module,
    head: nn.Module,
    *,
    learning_rate: float,
    weight_decay: float,
    steps: int,
    slow: int = 0,
    power: float = 0.9,
) -> dict[str, Any]:
    """Returns Nesterov SGD with poly decay, as Lightning takes it.

    Its first `slow` steps are at a hundredth of the rate (L2G on COCO). Rates are 1, 2, 10 and 20 times the base for
    weights and biases of the backbone and of the head.
    """

    def rate(step: int) -> float:
        return (0.01 if step < slow else 1.0) * max(0.0, 1 - step / max(1, steps)) ** power

    return _four_rates(backbone, head, learning_rate, weight_decay, rate)


def _four_rates(
    backbone: nn.Module,
    head: nn.Module,
    learning_rate: float,
    weight_decay: float,
    rate: Callable[[int], float],
    head_factor: float = 10.0,
) -> dict[str, Any]:
    groups = []
    for module, factor in ((backbone, 1.0), (head, head_factor)):
        weights, others = _weights_and_others(module)
        for times, members in ((factor, weights), (2 * factor, others)):
            if members:
                groups.append({"params": members, "lr": learning_rate * times})
    optimiser = torch.optim.SGD(groups, momentum=0.9, weight_decay=weight_decay, nesterov=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, rate)
    return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _weights_and_others(module: nn.Module, kept: tuple[str, ...] = ()) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """What learns of a module: its weights; and norms, biases, and what has a name that ends in one of `kept`."""
    weights: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            (weights if parameter.ndim > 1 and not name.endswith(kept) else others).append(parameter)
    return weights, others
