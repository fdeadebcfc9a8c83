"""A mixture of two normal distributions over numbers: which of them are of the higher kind?"""

from __future__ import annotations

import math

import torch

ITERATIONS, SMALL_GAIN, LEAST_VARIANCE = 10, 1e-2, 5e-4  # of expectation maximisation, as DuPL (CVPR 2024) has them


def two_normals(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Fits a mixture of two normal distributions by expectation maximisation, from the values nearest to either end.

    Args:
        values: `(N,)`, N at least 2.

    Returns:
        means, variances and shares, `(2,)` float64 each, the lower mean first.
    """
    values = values.double()
    ends = torch.stack([values.min(), values.max()])
    for _ in range(ITERATIONS):  # two means, each of what is nearest to it
        nearer = (values - ends[0]).abs() <= (values - ends[1]).abs()
        if bool(nearer.all()) or not bool(nearer.any()):
            break
        ends = torch.stack([values[nearer].mean(), values[~nearer].mean()])
    belongs = torch.stack([nearer, ~nearer]).double()
    before = -math.inf
    means, variances, shares = _of(values, belongs)
    for _ in range(ITERATIONS):
        logs = _logs(values, means, variances, shares)
        total = torch.logsumexp(logs, dim=0)
        means, variances, shares = _of(values, (logs - total).exp())
        if abs(float(total.mean()) - before) < SMALL_GAIN:
            break
        before = float(total.mean())
    order = means.argsort()
    return means[order], variances[order], shares[order]


def improbable(known: torch.Tensor, values: torch.Tensor, *, gap: float, sure: float) -> torch.Tensor | None:
    """Tells which values are of the higher of two kinds.

    Args:
        known: `(N,)`, by which the two kinds are found.
        values: of any shape.
        gap: how far apart their means must lie; else there is but one kind.
        sure: the probability from which on a value is of the higher kind.

    Returns:
        bool, shaped as `values`; None where there is but one kind.
    """
    means, variances, shares = two_normals(known)
    if float(means[1] - means[0]) <= gap:
        return None
    logs = _logs(values.double().flatten(), means, variances, shares)
    return (logs.softmax(dim=0)[1] > sure).view(values.shape)


def _of(values: torch.Tensor, belongs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Means, variances and shares by how much each value belongs to either kind, `(2, N)`."""
    mass = belongs.sum(dim=1) + 1e-12
    means = (belongs * values).sum(dim=1) / mass
    variances = (belongs * (values - means[:, None]) ** 2).sum(dim=1) / mass + LEAST_VARIANCE
    return means, variances, mass / mass.sum()


def _logs(values: torch.Tensor, means: torch.Tensor, variances: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """The logarithms of share times density, `(2, N)`."""
    offsets = (values - means[:, None]) ** 2 / variances[:, None]
    return shares.log()[:, None] - 0.5 * (offsets + (2 * math.pi * variances).log()[:, None])
