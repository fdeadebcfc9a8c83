"""What a person sees while a run is going on: one bar a stage on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_SECONDS = 30.0  # between two lines in a log
Advance = Callable[[int, str], None]  # (how many are done, a short remark)


class Reporter:
    """Says sentences and shows bars; silent when `quiet`."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.console = Console(quiet=quiet, highlight=False)

    def __reduce__(self) -> tuple[type[Reporter], tuple[bool]]:
        return Reporter, (self.quiet,)  # consoles do not go to other processes

    def say(self, text: str) -> None:
        """Prints a sentence, unless told to be quiet."""
        self.console.print(text, markup=False, soft_wrap=True)

    def _now_and_then(self, name: str, total: int, unit: str) -> Advance:
        """Says how far the work is, in a log, every half minute at most."""
        begun = last = time.monotonic()

        def advance(done: int, remark: str) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= _SECONDS and 0 < done < total:
                last = now
                left = (now - begun) * (total - done) / done
                words = [f"{name}: {done} of {total} {unit}", f"about {left:.0f} s left", remark]
                self.say(", ".join(word for word in words if word))

        return advance

    @contextmanager
    def bar(self, name: str, total: int, unit: str) -> Iterator[Advance]:
        """Shows a bar over `total` pieces of work, and gives what moves it."""
        columns = (
            TextColumn(f"{name:<8}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(unit),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[remark]}"),
        )
        if not self.console.is_terminal:
            self.say(f"{name}: {total} {unit}")
            yield self._now_and_then(name, total, unit)
            return
        with Progress(*columns, console=self.console) as progress:
            task = progress.add_task(name, total=total, remark="")
            yield lambda done, remark: progress.update(task, completed=done, remark=remark)
