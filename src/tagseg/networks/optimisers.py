"""The two ways of this field to descend: AdamW, and SGD; both with poly decay, both with a faster head."""

from __future__ import annotations

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
    warmup: int = 0,
    power: float = 0.9,
) -> dict[str, Any]:
    """Optimiser and per-step schedule `min(step / warmup, 1) * (1 - step / steps) ** power`, as Lightning takes them.

    The head learns `head_factor` times faster. Norms and biases are not decayed. SGD has momentum 0.9 (the
    published "poly optimiser" of PSA and IRN loses its momentum to a slip: divide their rates by ten).
    """
    groups = []
    for module, factor in ((backbone, 1.0), (head, head_factor)):
        trained = [p for p in module.parameters() if p.requires_grad]
        for decay, members in (
            (weight_decay, [p for p in trained if p.ndim > 1]),
            (0.0, [p for p in trained if p.ndim <= 1]),
        ):
            if members:
                groups.append({"params": members, "lr": learning_rate * factor, "weight_decay": decay})
    optimiser: torch.optim.Optimizer = (
        torch.optim.AdamW(groups) if kind == "adamw" else torch.optim.SGD(groups, momentum=0.9)
    )

    def rate(step: int) -> float:
        return min((step + 1) / (warmup + 1), 1.0) * max(0.0, 1 - step / max(1, steps)) ** power

    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, rate)
    return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
