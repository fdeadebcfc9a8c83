"""Writing that is whole or absent: aside, flushed to the disk, then renamed."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tagseg.errors import is_full, unwritable

PARTIAL = ".partial"
RUN_MARKER = "run.json"  # what makes a folder a run
_BLOCK = 1 << 20
umask = os.umask(0)
os.umask(umask)


@contextmanager
def write_aside(path: Path) -> Iterator[Path]:
    """Gives a temporary path beside `path`; when the block ends well the file is synced and renamed to `path`.

    A reader therefore sees the old file or the whole new one, also after a power cut. When the block fails
    the temporary file is removed and `path` is as it was.

    Raises:
        BadInput: the folder cannot be made or written into.
    """
    make_folder(path.parent)
    aside = path.with_name(f"{_short(path.name)}.{os.getpid()}{PARTIAL}")
    try:
        yield aside
        with open(aside, "rb+") as file:
            _sync(file.fileno())
        with suppress(OSError):  # some writers make files that only their owner may read; some disks have no owners
            os.chmod(aside, 0o666 & ~umask)
        os.replace(aside, path)
        _sync_folder(path.parent)
    except OSError as error:
        _forget(aside)
        raise unwritable(path, error) from error
    except BaseException as error:
        _forget(aside)
        if is_full(error):  # safetensors and torch have errors of their own
            raise unwritable(path, error) from error
        raise


def _forget(aside: Path) -> None:
    with suppress(OSError):
        aside.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Makes a folder, and those above it.

    Raises:
        BadInput: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from error


def _short(name: str) -> str:
    """A name to which an ending can be added; one that is nearly as long as a disk allows is replaced by its digest."""
    return name if len(name.encode()) <= 220 else hashlib.blake2b(name.encode(), digest_size=16).hexdigest()


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    with suppress(OSError):  # not every file system over a network lets folders be opened
        handle = os.open(folder, os.O_RDONLY)
        try:
            _sync(handle)
        finally:
            os.close(handle)


def _sync(handle: int) -> None:
    """Has a file on the disk, where the file system can do that."""
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise


def remove_partial(folder: Path) -> None:
    """Deletes what an interrupted `write_aside` left below `folder`."""
    for path in folder.rglob(f"*{PARTIAL}"):
        if is_partial(path):
            path.unlink(missing_ok=True)


def is_partial(path: Path) -> bool:
    """Returns whether a file has the name of one that `write_aside` had not finished: `NAME.PROCESS.partial`."""
    *_, process, ending = path.name.rsplit(".", 2) if path.name.count(".") >= 2 else ("", "", "")
    return process.isdigit() and f".{ending}" == PARTIAL


def write_text(path: Path, text: str) -> None:
    """Writes a text in UTF-8, whole or not at all."""
    with write_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any, *, indent: int | None = 1) -> None:
    """Writes a value as JSON, whole or not at all; numbers that are not finite become null."""
    write_text(path, json.dumps(_finite(value), indent=indent, ensure_ascii=False, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    return [_finite(part) for part in value] if isinstance(value, list | tuple) else value


def read_json(path: Path) -> Any:
    """Returns the value in a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def file_digest(path: Path) -> str:
    """Returns a digest of a file's content; the file is read in parts."""
    content = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            content.update(block)
    return content.hexdigest()


def with_ending(stem: Path, ending: str) -> Path:
    """Returns the path `NAME.ending` of the stem `NAME` and `.ending`, whatever dots the name has."""
    return stem.with_name(stem.name + ending)


def free_bytes(path: Path) -> int:
    """Returns the room that is left on the disk where `path` lies, or would lie."""
    return shutil.disk_usage(next(p for p in (path, *path.absolute().parents) if p.exists())).free
