"""A folder of results that comes whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tagseg.errors import BadInput, unwritable
from tagseg.files import PARTIAL, make_folder


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Gives an empty folder beside `out`, which takes its place when the block ends well, and else is removed.

    Raises:
        BadInput: `out` holds something already, or cannot be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadInput(f"{out}: this is there already; choose another --out (nothing was changed).")
    aside = out.with_name(f"{out.name}{PARTIAL}")
    shutil.rmtree(aside, ignore_errors=True)  # of an earlier call that was killed
    try:
        make_folder(aside)
        yield aside
        try:
            if out.exists():
                out.rmdir()
            os.replace(aside, out)
        except OSError as error:
            raise unwritable(out, error) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
