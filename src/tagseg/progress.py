"""What a person sees while a run is going on: one bar a stage on a terminal, plain lines elsewhere."""

from __future__ import annotations

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
            yield lambda done, remark: None  # noqa: ARG005
            return
        with Progress(*columns, console=self.console) as progress:
            task = progress.add_task(name, total=total, remark="")
            yield lambda done, remark: progress.update(task, completed=done, remark=remark)
