"""Losses that several processes share.

Lightning averages the gradients of the processes, which is right for what is a mean over the photographs of a batch,
once every loss weighs as much as its process has of them. A mean over something that is counted (labelled pixels, pairs
of patches) is that of all processes only if it is divided by what all of them count; and what is random must not depend
on how a batch is shared.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import distributed

_portion = 1.0  # see `have_portion`
_seed: int | None = None  # see `seed_epoch`


def have_portion(portion: float) -> None:
    """Says how many times as many photographs of a batch this process has as it would have if all had as many.

    The losses of a step are multiplied by it afterwards, which is not to change what is divided by counts of all.
    """
    global _portion
    _portion = portion


def ranks() -> tuple[int, int]:
    """Returns the number of this process, and how many there are."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def shared_sum(values: torch.Tensor) -> torch.Tensor:
    """Returns the sum over all processes of values that nothing learns from, any shape. All of them must call it."""
    if ranks()[1] > 1:
        values = values.detach().clone()
        distributed.all_reduce(values)
    return values


def shared_mean(values: torch.Tensor, where: torch.Tensor, more: float = 0.0) -> torch.Tensor:
    """Returns the mean of what counts, over the batches of all processes; 0 where nothing does.

    The mean over the processes of what each of them gets is that mean. All of them must call it.

    Args:
        values: any shape.
        where: of that shape, or one that broadcasts to it; what counts, and how much.
        more: what is added to the count (published codes add 1).
    """
    where = where.expand_as(values)
    count = shared_sum(where.sum(dtype=torch.float32)) + more  # in half precision it would not be exact
    return part_of_mean() * (values * where).sum() / count.clamp(min=1)


def part_of_mean() -> float:
    """Returns by how much to multiply what this process adds to a sum over all, for a loss that is that sum.

    The mean over processes of their losses, each as heavy as its photographs are many, is then the sum.
    """
    return ranks()[1] / _portion


def gathered(values: torch.Tensor) -> torch.Tensor:
    """Returns the values of all processes, one after the other, `(B, ...) -> (B of all, ...)`; all learn through it.

    All of them must call it; some may have fewer values.
    """
    rank, world = ranks()
    if world == 1:
        return values
    from torch.distributed.nn.functional import all_gather

    own = torch.zeros(world, device=values.device)
    own[rank] = len(values)
    counts: list[int] = shared_sum(own).long().tolist()
    filled = torch.cat([values, values.new_zeros(max(counts) - len(values), *values.shape[1:])])
    return torch.cat([part[:count] for part, count in zip(all_gather(filled.contiguous()), counts, strict=True)])


def own_share(count: int) -> int:
    """Returns how many of the first `count` photographs of a batch this process has.

    Processes take turns (see `tagseg.data.loading.EpochSampler`).
    """
    rank, world = ranks()
    return len(range(rank, count, world))


def seed_epoch(seed: int) -> None:
    """Seeds what networks draw inside, such as dropout, in every process otherwise; see also `step_generator`."""
    global _seed
    _seed, rank = seed, ranks()[0]
    torch.manual_seed(seed if rank == 0 else int(np.random.default_rng((seed, rank)).integers(1 << 62)))


def step_generator(step: int) -> torch.Generator:
    """Returns random numbers of a training step, which are the same in all processes.

    They depend on the seed of the epoch (`seed_epoch`), or the one that torch was given last, and on the step.
    """
    seed = torch.initial_seed() if _seed is None or ranks()[0] == 0 else _seed
    return torch.Generator().manual_seed((seed * 1_000_003 + step) % (1 << 63))
