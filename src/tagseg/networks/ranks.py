"""Losses that several processes share.

Lightning averages the gradients of the processes, which is right for what is a mean over the photographs of a batch. A
mean over something that is counted (labelled pixels, pairs of patches) is that of all processes only if it is divided
by what all of them count; and what is random must not depend on how a batch is shared.
"""

from __future__ import annotations

import torch
from torch import distributed


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
    return ranks()[1] * (values * where).sum() / count.clamp(min=1)


def gathered(values: torch.Tensor) -> torch.Tensor:
    """Returns the values of all processes, one after the other, `(B, ...) -> (W B, ...)`; all of them learn through it.

    All of them must call it, with as many values.
    """
    if ranks()[1] == 1:
        return values
    from torch.distributed.nn.functional import all_gather

    return torch.cat(all_gather(values.contiguous()))


def own_share(count: int) -> int:
    """Returns how many of the first `count` photographs of a batch this process has.

    Processes take turns (see `tagseg.data.loading.EpochSampler`).
    """
    rank, world = ranks()
    return len(range(rank, count, world))


def step_generator(step: int) -> torch.Generator:
    """Returns random numbers of a training step, which are the same in all processes.

    They depend on the seed that torch was given last, as at the start of every epoch, and on the step.
    """
    return torch.Generator().manual_seed((torch.initial_seed() * 1_000_003 + step) % (1 << 63))
