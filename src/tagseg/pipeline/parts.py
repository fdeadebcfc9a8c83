"""Work on single photographs, shared by the processes of a run.

Every piece of such work makes only what is not there yet. So each process makes its part, all into the run's folder,
and then the first one goes over the whole: what another one has lost, it makes itself. What comes of it does not depend
on how many there were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import distributed

from tagseg.cores import in_processes, share_of_cores
from tagseg.data.dataset import Sample
from tagseg.data.shards import Shards
from tagseg.pipeline.cluster import team
from tagseg.progress import Advance

Entry = TypeVar("Entry")
ENOUGH = 64  # photographs for each process; with fewer, starting it costs more than it saves
PATIENCE = timedelta(days=7)  # for one process that has more to do, as what is missing may all be in its part


@dataclass(frozen=True)
class Part:
    """One of several parts of work, counted from 0; by default all of it."""

    number: int = 0
    size: int = 1

    def takes(self, piece: int) -> bool:
        """Returns whether a piece of the work, counted from 0, is in this part."""
        return piece % self.size == self.number

    @property
    def is_whole(self) -> bool:
        """Returns whether there is no other part."""
        return self.size == 1


WHOLE = Part()


class Work(Protocol):
    """Work on photographs that travels to other processes (a `functools.partial` of a module's function does): it makes
    what is missing of its part, and tells how many photographs are done in all."""

    def __call__(self, *, part: Part, advance: Advance) -> None: ...


def in_parts(work: Work, photographs: int, processes: int, folder: Path, advance: Advance) -> None:
    """Does work on so many photographs, by all processes that were started together, or one for each GPU.

    On a machine without GPUs a single process uses all cores, and starts no others.

    Args:
        work: what is done.
        photographs: how many there are.
        processes: at most as many work.
        folder: of the work, which all see.
        advance: is told how many are done.
    """
    others = team() if processes > 1 else None
    if others is not None:
        others.do(_together, (work, _Shown(advance)), min(processes, others.size), folder, PATIENCE)
    elif processes > 1 and photographs >= ENOUGH * processes and _several_gpus():
        for _ in in_processes(_one_part, [(work, Part(number, processes)) for number in range(processes)], processes):
            pass
    work(part=WHOLE, advance=advance)


def _several_gpus() -> bool:
    return torch.cuda.is_available() and torch.cuda.device_count() > 1


def _together(work: Work, advance: Advance) -> None:
    own, size = team(), distributed.get_world_size()
    assert own is not None
    with share_of_cores(own.local_rank, own.local(size)):
        work(part=Part(own.rank, size), advance=advance)
    distributed.barrier()  # what the others have made is there once they all are here


def _one_part(given: tuple[Work, Part]) -> None:
    work, part = given
    work(part=part, advance=_unseen)


def _unseen(done: int, remark: str) -> None:
    """Shows nothing."""


class _Shown:
    """What moves a bar in this process, and nothing in another one."""

    def __init__(self, advance: Advance) -> None:
        self.advance = advance

    def __call__(self, done: int, remark: str) -> None:
        self.advance(done, remark)

    def __reduce__(self) -> tuple[Callable[[], Advance], tuple[()]]:
        return _silence, ()


def _silence() -> Advance:
    return _unseen


class Counter:
    """Tells how many photographs are done: those that were there before, and of the others this part, as if the other
    parts were as far."""

    def __init__(self, total: int, before: int, part: Part, advance: Advance) -> None:
        self.total, self.before, self.part, self.advance = total, before, part, advance
        self.own = 0

    def add(self, photographs: int = 1) -> None:
        """Counts photographs that this part has done."""
        self.own += photographs
        self.advance(min(self.total, self.before + self.own * self.part.size), "")


def fill(
    store: Any,
    samples: Sequence[Sample],
    block: int,
    make: Callable[[list[Sample]], Iterable[tuple[Sample, dict[str, Entry]]]],
    part: Part,
    advance: Advance,
) -> None:
    """Makes what a store lacks, a shard for every so many photographs, whose number is that of its place in the list.

    Args:
        store: shards with `write(entries, number)`.
        samples: all photographs.
        block: photographs to a shard.
        make: yields every photograph that it is given with its entries by name.
        part: which shards are made here.
        advance: is told how many photographs are done.
    """
    shards: Shards = store
    counter = Counter(len(samples), sum(s.name in shards for s in samples), part, advance)
    for number, start in enumerate(range(0, len(samples), block)):
        whole = list(samples[start : start + block])
        missing = [sample for sample in whole if sample.name not in shards]
        # what is there in part, as an earlier version left it, is for whoever does all of it
        if not missing or not part.takes(number) or (not part.is_whole and len(missing) < len(whole)):
            continue
        entries: dict[str, Entry] = {}
        for _, found in make(missing):
            entries |= found
            counter.add()
        store.write(entries, number)
