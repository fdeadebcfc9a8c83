"""Processes that somebody else has started, on one machine or on several: torchrun, or srun of SLURM.

All of them call the same command. The first one does the run, as if it were alone; the others wait until it has a
network to train, and then train it together. They share the run's folder, which every machine must see. What is sent to
them lies in that folder for a moment; they take it only if it is what the first one has told them directly.
"""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.environments import ClusterEnvironment, SLURMEnvironment
from torch import distributed

from tagseg.errors import BadInput
from tagseg.files import write_aside

END = b"end"
_ONE_DISK = "give an --out on a disk that all machines see."
_GONE = timedelta(seconds=5)  # for what has perhaps ended already
_WAIT = timedelta(seconds=60)  # after which whoever waits looks whether the first one is still there
_FIRST_PORT = 15_000  # a job of SLURM has one of 10,000 from here on
TOGETHER = timedelta(hours=1)  # for which one process may be slower than another, in a step


@dataclass
class Team:
    """The processes of a command that were started together.

    rank, size: the number of this process, and how many there are.
    local_rank, local_size: the same on this machine.
    store: what they tell each other by.
    jobs: how many have been begun.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    store: distributed.Store
    jobs: int = field(default=0)

    @property
    def helps(self) -> bool:
        """Returns whether this process waits for what the first one has to do."""
        return self.rank > 0

    def local(self, processes: int) -> int:
        """Returns how many of the first `processes` processes are on this machine."""
        first = self.rank - self.local_rank
        return max(0, min(self.local_size, processes - first))

    def devices(self, processes: int) -> int:
        """Returns how many devices the first `processes` processes on this machine choose from.

        Where whoever has started them has given each a GPU of its own, that is the only one it sees.
        """
        return 1 if self.has_own_gpu else self.local(processes)

    @property
    def has_own_gpu(self) -> bool:
        """Returns whether this process sees one GPU, which no other one on this machine sees."""
        return self.local_size > 1 and torch.cuda.is_available() and torch.cuda.device_count() == 1

    def do(
        self,
        work: Callable[..., Any],
        arguments: tuple[Any, ...],
        processes: int,
        folder: Path,
        patience: timedelta = TOGETHER,
    ) -> Any:
        """Does `work(*arguments)` in the first `processes` processes at once, of which this is the first one.

        Whoever waits for another one longer than `patience` gives up.

        Returns:
            what it returns here.
        """
        content = pickle.dumps((work, arguments))
        path = folder / "job.partial"
        with write_aside(path) as aside:
            aside.write_bytes(content)
        told = pickle.dumps((processes, str(path.resolve()), _digest(content), patience))
        self.store.set(self._key(), told)  # type: ignore[arg-type]  # bytes will do
        try:
            with self._group(processes, patience):
                return work(*arguments)
        finally:
            path.unlink(missing_ok=True)
            self.jobs += 1

    def help(self) -> None:
        """Does what the first process has others do, until it ends."""
        while True:
            while True:
                with suppress(distributed.DistStoreError):  # nothing yet; where nobody is left, it is another error
                    self.store.wait([self._key()], _WAIT)
                    break
            told = self.store.get(self._key())
            if told == END:
                self.store.set(f"{self._key()}/{self.rank}", "heard")
                self.jobs += 1
                return
            processes, path, digest, patience = pickle.loads(told)
            if self.rank < processes:
                try:
                    content = Path(path).read_bytes()
                except OSError as error:
                    raise BadInput(f"{path}: process {self.rank} does not see this file; {_ONE_DISK}") from error
                if _digest(content) != digest:
                    raise BadInput(f"{path}: this is not what the first process has written; {_ONE_DISK}")
                work, arguments = pickle.loads(content)
                with self._group(processes, patience):
                    work(*arguments)
            self.jobs += 1

    def end(self, failed: bool = False) -> None:
        """Tells the others that nothing is left to do, and waits until they have heard it, for what they are told by
        may end with this process. Where the work has failed, some may be gone, and are not waited for long. A first
        process that is killed need not tell them."""
        with suppress(RuntimeError):
            self.store.set(self._key(), END)  # type: ignore[arg-type]
            others = [f"{self._key()}/{rank}" for rank in range(1, self.size)]
            self.store.wait(others, _GONE if failed else _WAIT)
        self.jobs += 1

    def _key(self) -> str:
        return f"tagseg/{self.jobs}"

    @contextmanager
    def _group(self, processes: int, patience: timedelta) -> Iterator[None]:
        """While this lasts, the first processes are one group."""
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        if backend == "nccl":
            torch.cuda.set_device(0 if self.has_own_gpu else self.local_rank)
        store = distributed.PrefixStore(f"group/{self.jobs}", self.store)
        distributed.init_process_group(backend, store=store, rank=self.rank, world_size=processes, timeout=patience)
        try:
            yield
        finally:
            with suppress(RuntimeError):
                distributed.destroy_process_group()


class Joined(ClusterEnvironment):
    """What Lightning asks of processes that are there already: the first ones of a team."""

    def __init__(self, team: Team, processes: int) -> None:
        super().__init__()
        self.team, self.processes = team, processes

    creates_processes_externally = True
    main_address, main_port = "127.0.0.1", 0  # nobody asks: the group is there

    @staticmethod
    def detect() -> bool:
        """Returns whether there is a team."""
        return team() is not None

    def world_size(self) -> int:
        """Returns how many processes work."""
        return self.processes

    def set_world_size(self, size: int) -> None:
        """Does nothing, for the size is known."""

    def global_rank(self) -> int:
        """Returns the number of this process."""
        return self.team.rank

    def set_global_rank(self, rank: int) -> None:
        """Does nothing, for the number is known."""

    def local_rank(self) -> int:
        """Returns the number of this process on its machine, by which it chooses a device."""
        return 0 if self.team.has_own_gpu else self.team.local_rank

    def node_rank(self) -> int:
        """Returns 0, for nothing depends on it."""
        return 0

    def validate_settings(self, num_devices: int, num_nodes: int) -> None:
        """Does nothing, for both are told by the team."""


@cache
def team() -> Team | None:
    """Returns the processes that were started together with this one; None where it is alone.

    Raises:
        BadInput: whoever started them does not say enough.
    """
    found = _of_torchrun() or _of_slurm()
    if found is None or found[1] < 2:
        return None
    rank, size, local_rank, local_size = found
    if distributed.is_initialized():  # by whoever calls from Python, who then shares the work as they like
        return None
    try:
        store, _, _ = next(distributed.rendezvous("env://", rank, size))
    except (RuntimeError, ValueError) as error:
        raise BadInput(
            f"process {rank} of {size}: the first one was not found at {os.environ.get('MASTER_ADDR')}:"
            f"{os.environ.get('MASTER_PORT')}; start all with torchrun or srun (docs/clusters.md)."
        ) from error
    return Team(rank, size, local_rank, local_size, store)


def _of_torchrun() -> tuple[int, int, int, int] | None:
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    if "TORCHELASTIC_RUN_ID" not in os.environ or not all(name in os.environ for name in names):
        return None
    rank, size, local_rank, local_size = (int(os.environ[name]) for name in names)
    return rank, size, local_rank, local_size


def _of_slurm() -> tuple[int, int, int, int] | None:
    """As many processes as `srun` has started; what an interactive shell or sbatch itself runs is alone."""
    said = os.environ
    if (
        "SLURM_STEP_ID" not in said
        or "SLURM_PROCID" not in said
        or said.get("SLURM_JOB_NAME") in ("bash", "interactive")
    ):
        return None
    size = int(said.get("SLURM_STEP_NUM_TASKS", said.get("SLURM_NTASKS", "1")))
    if size > 1:
        nodes = said.get("SLURM_STEP_NODELIST", said.get("SLURM_NODELIST", "127.0.0.1"))
        said.setdefault("MASTER_ADDR", SLURMEnvironment.resolve_root_node_address(nodes))
        said.setdefault("MASTER_PORT", str(_FIRST_PORT + int(said.get("SLURM_JOB_ID", "0")) % 10_000))
    rank, local_rank = int(said["SLURM_PROCID"]), int(said.get("SLURM_LOCALID", "0"))
    counts = _per_node(said.get("SLURM_STEP_TASKS_PER_NODE", str(size)))
    node = int(said.get("SLURM_NODEID", "0"))
    return rank, size, local_rank, counts[node] if node < len(counts) else counts[0]


def _per_node(said: str) -> list[int]:
    """The numbers of processes on every node, which SLURM writes as 4(x2),3."""
    found = []
    for part in said.split(","):
        count, _, times = part.partition("(x")
        found += [int(count)] * int(times.rstrip(")") or 1)
    return found


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
