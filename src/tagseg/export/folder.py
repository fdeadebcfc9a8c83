"""A folder of results that comes whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tagseg.errors import BadInput, unwritable
from tagseg.files import PARTIAL, make_folder, umask


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Gives an empty folder beside `out`, which takes its place when the block ends well, and else is removed.

    Its name is nobody else's; one that a killed call has left begins with a dot, and may be removed.

    Raises:
        BadInput: `out` holds something already, or cannot be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadInput(f"{out}: this is there already; choose another --out (nothing was changed).")
    out = out.absolute()
    make_folder(out.parent)
    try:
        aside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=PARTIAL, dir=out.parent))
    except OSError as error:
        raise unwritable(out, error) from error
    try:
        yield aside
        try:
            if out.exists():
                out.rmdir()
            os.chmod(aside, 0o777 & ~umask)
            os.replace(aside, out)
        except OSError as error:
            raise unwritable(out, error) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
