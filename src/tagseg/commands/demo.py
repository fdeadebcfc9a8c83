"""`demo`: draw still lifes and run the main job on them."""

from __future__ import annotations

import os
from pathlib import Path

from tagseg.data.still_life import CLASSES, make_still_lifes
from tagseg.errors import BadInput, explain_full_disk
from tagseg.pipeline.fit import FitResult, fit
from tagseg.progress import Reporter

TRAIN, VAL = 500, 100


def demo(out: str | os.PathLike[str] = "tagseg-demo", *, seed: int = 0, quiet: bool = False) -> FitResult:
    """Makes a data set in `out/data` and fits on it in `out/run`; nothing is downloaded, a second call goes on.

    Args:
        out: folder for both.
        seed: of the data set and of the run.
        quiet: print nothing.

    Raises:
        BadInput: the folder holds something else.
    """
    data = Path(out) / "data"
    if data.exists() and any(data.iterdir()) and not (data / "masks").is_dir():
        raise BadInput(f"{data}: this folder holds something else; choose another --out (nothing was changed).")
    reporter = Reporter(quiet)
    with reporter.bar("draw", TRAIN + VAL, "photographs") as advance, explain_full_disk(data):
        make_still_lifes(data, train=TRAIN, val=VAL, seed=seed, advance=advance)
    reporter.say(f"data: {TRAIN} photographs with tags out of {len(CLASSES)} classes, in {data}")
    return fit(data, Path(out) / "run", recipe="demo/cam", settings={"seed": seed}, quiet=quiet)
