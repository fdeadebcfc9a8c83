"""`plan`: what a run would do, stage by stage, and how long it would take, by a short trial on this machine."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tagseg.data.dataset import Dataset, at_even_steps
from tagseg.data.reading import opened
from tagseg.errors import BadInput
from tagseg.files import free_bytes
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
    seconds: that one takes, of a step those of all that share it.
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
        return self.count * self.seconds / (1 if self.unit == "steps" else self.processes)


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
    free = free_bytes(Path(out))
    if disk > free:
        raise BadInput(f"{out}: the run needs about {disk / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free.")
    clock = _Clock(quiet)
    trainings = _trainings(chosen)
    _trial(photographs, _small(alone, trainings), clock)
    evaluated = len(photographs.val) or len(photographs.train)
    counts = {"check": len(photographs.samples), "predict": evaluated, "plain": evaluated, "report": evaluated}
    work = []
    for name, unit, seconds in clock.pieces():
        if unit == "steps":
            work += _steps(trainings[name], seconds, len(photographs.train))
        else:
            count = counts.get(name, len(photographs.train))
            work.append(PlannedWork(name, count, unit, None, 1 if name == "check" else processes, _slope(seconds)))
    return Plan(tuple(work), _memory(), max(training.part for training in trainings.values()), disk, free)


@dataclass(frozen=True)
class _Training:
    """A training of the run.

    name: as its bar is called.
    epochs: the batch size of every epoch.
    warm: how many of them are a warm-up.
    processes: that share a batch.
    part: photographs that a process sees at a time in the trial.
    small: whether the trial uses a batch of that many, rather than the batch of the settings.
    """

    name: str
    epochs: tuple[int, ...]
    warm: int
    processes: int
    part: int
    small: bool = True


def _trainings(settings: FitSettings) -> dict[str, _Training]:
    """The trainings of a run, by the names of their bars."""
    import torch

    sharing = Sharing(settings.processes, settings.accumulate)

    def shared(name: str, epochs: list[int], warm: int, fast: bool, together: int = 1) -> _Training:
        processes, parts = sharing.of(*(batch // together for batch in epochs))
        part = -(-max(epochs) // together // processes // parts) * together if fast else min(PART, *epochs)
        return _Training(name, tuple(epochs), warm, processes, part)

    gpu, train, chain = torch.cuda.is_available(), settings.train, settings.masks
    sizes = [train.batch_size_at(epoch) for epoch in range(train.epochs)]
    warm = train.warmup_epochs if getattr(train, "warmup", 0) else 0
    found = [shared("train", sizes, warm, gpu or train.frozen)]
    after: dict[str, Any] = {"integral": train.successor, "affinity": chain.of(str(chain.learnt))}
    if settings.segment.network != "decoder":
        after["segment"] = settings.segment
    found += [
        shared(
            name,
            [own.batch_size] * own.epochs,
            0,
            gpu or (name == "integral" and train.frozen),
            together=settings.segment.networks if name == "segment" else 1,
        )
        for name, own in after.items()
        if own is not None
    ]
    decoders: dict[str, Any] = {"relabel": chain.of(str(chain.taught))}
    if settings.segment.network == "decoder":
        decoders["segment"] = settings.segment.decoder
    found += [
        _Training(name, (own.batch_size,) * own.epochs, 0, 1, own.batch_size, small=False)
        for name, own in decoders.items()
        if own is not None
    ]
    return {training.name: training for training in found}


def _small(settings: FitSettings, trainings: dict[str, _Training]) -> FitSettings:
    """The settings of a trial: two epochs, one of them of a warm-up where there is one, with everything set in."""
    values = settings.model_dump(mode="json")
    places = {
        "train": values["train"],
        "integral": values["train"].get("integral"),
        "affinity": values["masks"].get(str(settings.masks.learnt)),
        "segment": values["segment"],
    }
    for name, some in places.items():
        if some is None or name not in trainings or not trainings[name].small:
            continue
        part = trainings[name].part
        some |= {"epochs": 2, "batch_size": part}
        some |= {key: 0.0 for key in EVERYTHING_AT_ONCE if key in some}
        if "beco" in some:
            some["beco"]["warmup"] = 0.0
        if some.get("warmup"):
            some["warmup"] = 0.5
        if some.get("warmup_batch_size"):
            some["warmup_batch_size"] = part
    values["accumulate"] = 1  # a part is a batch of its own
    values["log"] = {"every": 100_000, "to": "csv"}
    kind = type(settings.train)
    values["train"] = kind.model_validate(values["train"])
    return FitSettings.model_validate(values)


def _trial(data: Dataset, settings: FitSettings, clock: _Clock) -> None:
    import torch

    count = max(FEW, 2 * settings.train.batch_size)
    train = at_even_steps(data.train, count)
    kept = {s.name for s in (*train, *data.val[:FEW_VAL])}
    few = data.without({s.name for s in data.samples} - kept)
    with tempfile.TemporaryDirectory() as folder:
        try:
            fit_as(few, Path(folder) / "run", settings, "report", True, clock)
        except torch.cuda.OutOfMemoryError as error:
            raise BadInput(
                f"{clock.bars[-1][0]}: the GPU's memory is too small for so many photographs at a time; set "
                "accumulate=N where the method allows it, more processes, or a smaller batch or side."
            ) from error


def _steps(training: _Training, seconds: list[float], photographs: int) -> list[PlannedWork]:
    """The steps of a training; of one that warms up, in two pieces."""
    half, warm = len(seconds) // 2, training.warm
    phases = [(training.name, training.epochs, seconds)]
    if warm:
        phases = [
            (f"{training.name}, warm-up", training.epochs[:warm], seconds[:half]),
            (training.name, training.epochs[warm:], seconds[half:]),
        ]
    found = []
    for name, sizes, times in phases:
        for size in dict.fromkeys(sizes):
            steps = sizes.count(size) * -(-photographs // size)
            share = -(-size // training.processes)
            found.append(
                PlannedWork(name, steps, "steps", size, training.processes, _slope(times) * share / training.part)
            )
    return found


def _slope(seconds: list[float]) -> float:
    """The time of one of several, the first of which also pays for what is loaded."""
    return float(np.median(seconds[1:] if len(seconds) > 2 else seconds)) if seconds else 0.0


def _memory() -> tuple[int, str]:
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_reserved(), "of the GPU"
    try:
        import resource
    except ImportError:  # a system that does not tell
        return 0, "(this system does not tell how much)"
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
