"""`plan`: what a run would do, stage by stage, and how long it would take, by a short trial on this machine."""

from __future__ import annotations

import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tagseg.data.dataset import Dataset
from tagseg.data.reading import opened
from tagseg.errors import BadInput
from tagseg.pipeline.fit import fit_as, room_mb
from tagseg.pipeline.settings import DEFAULT_RECIPE, FitSettings, resolve
from tagseg.pipeline.training import Sharing
from tagseg.progress import Advance, Reporter

FEW, FEW_VAL, PART = 8, 4, 2  # photographs of a trial, for evaluation, and at a time where there is no GPU
EVERYTHING_AT_ONCE = ("classes_first", "spread_from", "contrast_from", "teacher_from")  # shares that a trial skips


@dataclass(frozen=True)
class PlannedWork:
    """A piece of work of a run.

    name: as the bar of the run calls it.
    count: how many of them there are.
    unit: "photographs" or "steps".
    batch: photographs of a step, of all processes.
    processes: that share it.
    seconds: that one takes.
    """

    name: str
    count: int
    unit: str
    batch: int | None
    processes: int
    seconds: float

    @property
    def total(self) -> float:
        """Returns the seconds of all of it."""
        return self.count * self.seconds


@dataclass(frozen=True)
class Plan:
    """What a run would do.

    work: piece by piece, in its order.
    memory: the most that the trial took, bytes, and of what.
    part: photographs that a process saw at a time in the trial.
    disk: bytes that the run takes at most.
    free: bytes that there are.
    """

    work: tuple[PlannedWork, ...]
    memory: tuple[int, str]
    part: int
    disk: int
    free: int

    @property
    def seconds(self) -> float:
        """Returns how long the whole run takes."""
        return sum(piece.total for piece in self.work)

    def markdown(self) -> str:
        """Returns the plan as a table, and what it needs below it."""
        rows = ["| work | how many | a batch | processes | each | together |", "|---|---|---|---|---|---|"]
        for piece in self.work:
            batch = "" if piece.batch is None else str(piece.batch)
            each = f"{1000 * piece.seconds:.0f} ms" if piece.seconds < 10 else f"{piece.seconds:.0f} s"
            rows.append(
                f"| {piece.name} | {piece.count:,} {piece.unit} | {batch} | {piece.processes} | {each} "
                f"| {_duration(piece.total)} |"
            )
        gigabytes, of = self.memory[0] / 1e9, self.memory[1]
        return "\n".join(
            [
                *rows,
                "",
                f"Together about {_duration(self.seconds)}, by a trial of {FEW} photographs on this machine. Memory: "
                f"{gigabytes:.1f} GB {of} at {self.part} photographs at a time. Disk: {self.disk / 1e9:.1f} GB at most "
                f"(free: {self.free / 1e9:.0f} GB).",
            ]
        )


def plan(
    data: Dataset | str | os.PathLike[str],
    *,
    recipe: str = DEFAULT_RECIPE,
    settings: dict[str, Any] | None = None,
    processes: int = 1,
    out: str | os.PathLike[str] = ".",
    quiet: bool = False,
) -> Plan:
    """Says what `fit` would do with these photographs, and how long it would take.

    A few photographs go through the whole run, in a folder that is removed afterwards; what each piece of work takes
    then is multiplied by how much of it there is. On a GPU a batch is what a process would have of it; without one, a
    step of a network that is fine-tuned is that of a few photographs, and as many times as long as the batch is larger,
    which is rather too much than too little. Steps are those in which a method does everything that it does.

    Args:
        data: folder of the data set, or one that `tagseg.read_samples` made of objects.
        recipe, settings: see `fit`.
        processes: that are to train together; how long they take is that of one, shared evenly.
        out: where the run would lie, for the room on that disk.
        quiet: print nothing.

    Raises:
        BadInput: what will not fit on the disk or into the GPU's memory, or what `fit` would refuse.
    """
    chosen = resolve(recipe, {**(settings or {}), "processes": processes})
    photographs = opened(data, chosen.data.tags)
    alone = chosen.model_copy(update={"processes": 1})
    disk = int(1e6 * room_mb(alone, photographs))
    there = next(p for p in (Path(out), *Path(out).absolute().parents) if p.exists())
    free = shutil.disk_usage(there).free
    if disk > free:
        raise BadInput(f"{out}: the run needs about {disk / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free.")
    clock, part = _Clock(quiet), _part(chosen)
    _trial(photographs, _small(alone, part), clock)
    sharing = Sharing(processes, chosen.accumulate)
    work = []
    for name, unit, seconds in clock.pieces():
        if unit == "steps":
            work += _steps(name, seconds, chosen, len(photographs.train), part, sharing)
        else:
            count = {"check": len(photographs.samples), "predict": _val(photographs), "report": _val(photographs)}
            each = _slope(seconds)
            work.append(PlannedWork(name, count.get(name, len(photographs.train)), unit, None, 1, each))
    return Plan(tuple(work), _memory(), part, disk, free)


def _val(data: Dataset) -> int:
    return len(data.val) or len(data.train)


def _part(settings: FitSettings) -> int:
    """Photographs that a process sees at a time in the trial: few where that takes long, all of a batch elsewhere."""
    import torch

    if not torch.cuda.is_available() and not settings.train.frozen:
        return min(PART, settings.train.batch_size)
    shared, parts = Sharing(settings.processes, settings.accumulate).of(settings.train.batch_size)
    return settings.train.batch_size // shared // parts


def _small(settings: FitSettings, part: int) -> FitSettings:
    """The settings of a trial: two epochs, one of them of a warm-up where there is one, with everything set in."""
    values = settings.model_dump(mode="json")
    trained = [values["train"], values["segment"], values["train"].get("integral")]
    trained.append(values["masks"].get(str(settings.masks.learnt)))
    for some in filter(None, trained):
        if "epochs" in some:
            some |= {"epochs": 2, "batch_size": part}
        some |= {key: 0.0 for key in EVERYTHING_AT_ONCE if key in some}
        if some.get("warmup"):
            some["warmup"] = 0.5
        if some.get("warmup_batch_size"):
            some["warmup_batch_size"] = part
    values["log"] = {"every": 100_000, "to": "csv"}
    kind = type(settings.train)
    values["train"] = kind.model_validate(values["train"])
    return FitSettings.model_validate(values)


def _trial(data: Dataset, settings: FitSettings, clock: _Clock) -> None:
    import torch

    count = max(FEW, 2 * settings.train.batch_size)
    train = [data.train[int(n)] for n in np.linspace(0, len(data.train) - 1, min(count, len(data.train)))]
    kept = {s.name for s in (*train, *data.val[:FEW_VAL])}
    few = data.without({s.name for s in data.samples} - kept)
    with tempfile.TemporaryDirectory() as folder:
        try:
            fit_as(few, Path(folder) / "run", settings, "report", True, clock)
        except torch.cuda.OutOfMemoryError as error:
            raise BadInput(
                f"the GPU's memory is too small for {settings.train.batch_size} photographs at a time; "
                "set accumulate=N, more processes, or a smaller side."
            ) from error


def _steps(
    name: str, seconds: list[float], settings: FitSettings, photographs: int, part: int, sharing: Sharing
) -> list[PlannedWork]:
    """The steps of a training; of one that warms up, in two pieces."""
    chain, train = settings.masks, settings.train
    if name == "train":
        epochs = [train.batch_size_at(epoch) for epoch in range(train.epochs)]
        warm = train.warmup_epochs
    else:
        own: Any = {
            "integral": train.successor,
            "affinity": chain.of(str(chain.learnt)),
            "relabel": chain.of(str(chain.taught)),
            "segment": settings.segment.decoder if settings.segment.network == "decoder" else settings.segment,
        }[name]
        epochs, warm = [own.batch_size] * own.epochs, 0
    both = bool(warm) and getattr(train, "warmup", None)
    half = len(seconds) // 2
    phases = (
        [("train, warm-up", epochs[:warm], seconds[:half]), ("train", epochs[warm:], seconds[half:])]
        if both
        else [(name, epochs, seconds)]
    )
    small = name in ("relabel", "segment") and settings.segment.network == "decoder"  # trials leave these batches alone
    found = []
    for called, sizes, times in phases:
        for size in dict.fromkeys(sizes):
            shared, _ = sharing.of(size)
            steps = sum(-(-photographs // s) for s in sizes if s == size)
            photo = _slope(times) / (size if small else part)
            found.append(PlannedWork(called, steps, "steps", size, shared, photo * size / shared))
    return found


def _slope(seconds: list[float]) -> float:
    """The time of one of several, the first of which also pays for what is loaded."""
    return float(np.median(seconds[1:] if len(seconds) > 2 else seconds)) if seconds else 0.0


def _memory() -> tuple[int, str]:
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_reserved(), "of the GPU"
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most * (1 if sys.platform == "darwin" else 1024), "of this process"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


class _Clock(Reporter):
    """Looks at when every bar moves; shows one line for each."""

    def __init__(self, quiet: bool) -> None:
        super().__init__(quiet=True)
        self.shown = Reporter(quiet)
        self.bars: list[tuple[str, str, list[float]]] = []

    @contextmanager
    def bar(self, name: str, total: int, unit: str) -> Iterator[Advance]:
        """Keeps how long it was from each piece to the next."""
        self.shown.say(f"trial: {name}, {total} {unit}")
        seconds: list[float] = []
        last, before = time.perf_counter(), 0
        self.bars.append((name, unit, seconds))

        def advance(done: int, remark: str) -> None:
            nonlocal last, before
            del remark
            now = time.perf_counter()
            if done > before:
                seconds.extend([(now - last) / (done - before)] * (done - before))
            last, before = now, max(before, done)

        yield advance

    def pieces(self) -> list[tuple[str, str, list[float]]]:
        """Returns the bars, those of one name joined."""
        found: dict[str, tuple[str, list[float]]] = {}
        for name, unit, seconds in self.bars:
            found.setdefault(name, (unit, []))[1].extend(seconds)
        return [(name, unit, seconds) for name, (unit, seconds) in found.items()]
