"""The folder of a run: what is done, from which inputs, and what must be done again."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from tagseg.files import PARTIAL, read_json, remove_partial, write_json
from tagseg.errors import BadInput, explain_full_disk

FORMAT = 1
MARKER = "run.json"  # what makes a folder a run
# saliency where something uses it, integral where a second network learns cumulative maps, affinity where a refinement
# learns
STAGES = ("saliency", "train", "integral", "mine", "affinity", "masks", "segment", "report")


@dataclass(frozen=True)
class StageResult:
    """What a finished stage left: `key` names its inputs, `values` is its own small JSON, `seconds` its time."""

    key: str
    values: dict[str, Any]
    seconds: float
    resumed: bool


class RunFolder:
    """One run on the disk.

    Args:
        path: the folder; made if it is not there.
        data: the data set's folder.
        digest: digest of its training photographs and tags.
        needed_mb: how much room a run from the beginning takes, megabytes.

    Raises:
        BadInput: the folder holds something else, a run on other data, or a run that is going on right now; or the disk
            is all but full.
    """

    def __init__(self, path: Path, data: Path, digest: str, needed_mb: float, say: Callable[[str], None]) -> None:
        self.path, self.say = path, say
        marker = path / MARKER
        if marker.exists():
            before = read_json(marker)
            if before["format"] != FORMAT:
                raise BadInput(f"{path}: this run was made by another version of tagseg; choose another --out.")
            if before["data"] != str(data.resolve()) and before["digest"] != digest:
                raise BadInput(
                    f"{path}: this folder holds a run on {before['data']}; choose another --out (nothing was changed)."
                )
        elif path.exists() and not path.is_dir():
            raise BadInput(f"{path}: this is a file; choose another --out (nothing was changed).")
        elif path.exists() and any(not p.name.endswith(PARTIAL) for p in path.iterdir()):
            raise BadInput(
                f"{path}: this folder holds something else than a run; choose another --out (nothing was changed)."
            )
        _check_room(path, needed_mb)
        with explain_full_disk(path):
            path.mkdir(parents=True, exist_ok=True)
            write_json(marker, {"format": FORMAT, "data": str(data.resolve()), "digest": digest})
        self._lock = _lock(path)
        remove_partial(path)

    def stage(self, name: str, inputs: dict[str, Any], work: Callable[[Path], dict[str, Any]]) -> StageResult:
        """Do `work(folder)` unless it was done before with the same inputs; go on where it was interrupted.

        A stage begun with other inputs is cleared first, and the reason is said.
        """
        folder = self.path / name
        record_path = folder / "stage.json"
        inputs = json.loads(json.dumps(inputs))  # as they will be read back
        key = hashlib.blake2b(json.dumps(inputs, sort_keys=True).encode(), digest_size=16).hexdigest()
        resumed = False
        if record_path.exists():
            record = read_json(record_path)
            if record["inputs"] == inputs:
                if record["finished"]:
                    self.say(f"{name}: already done, kept")
                    return StageResult(key, record["values"], record["seconds"], record["resumed"])
                resumed = True
                self.say(f"{name}: goes on where it was interrupted")
            else:
                self.say(f"{name}: done again, because {_difference(record['inputs'], inputs)}")
        with explain_full_disk(self.path):
            if not resumed:
                _clear(folder)
                write_json(record_path, {"inputs": inputs, "finished": False})
            begun = time.perf_counter()
            values = work(folder)
            seconds = round(time.perf_counter() - begun, 1)
            record = {
                "inputs": inputs,
                "finished": True,
                "values": values,
                "seconds": seconds,
                "resumed": resumed,
            }
            write_json(record_path, record)
        return StageResult(key, values, seconds, resumed)


def _check_room(path: Path, needed_mb: float) -> None:
    there = next(p for p in (path, *path.absolute().parents) if p.exists())
    free = shutil.disk_usage(there).free / 1e6
    used = sum(f.stat().st_size for f in path.rglob("*") if f.is_file()) / 1e6 if path.is_dir() else 0
    if free < needed_mb - used:
        raise BadInput(
            f"{path}: the disk has {free:.0f} MB left and the run needs about {needed_mb - used:.0f}; "
            "free some space or choose another --out."
        )


def _clear(folder: Path) -> None:
    (folder / "stage.json").unlink(missing_ok=True)  # first: from here on nothing in the folder counts as done
    shutil.rmtree(folder, ignore_errors=True)


def _difference(before: dict[str, Any], after: dict[str, Any], prefix: str = "") -> str:
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key), after.get(key)
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            return _difference(old, new, f"{prefix}{key}.")
        if key in STAGES:
            return f"the stage '{key}' before it changed"
        if key == "photographs":
            return "the photographs or their tags changed"
        return f"{prefix}{key} was {old!r} and is now {new!r}"
    return "its inputs changed"


def _lock(path: Path) -> TextIO | None:
    """Held as long as the process lives, also if it is killed; None where the system has no such locks."""
    try:
        import fcntl
    except ImportError:
        return None
    handle = open(path / ".lock", "w", encoding="utf-8")  # noqa: SIM115
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        handle.close()
        raise BadInput(
            f"{path}: another tagseg is at work on this run; wait for it or choose another --out."
        ) from error
    handle.write(f"{os.getpid()}\n")
    handle.flush()
    return handle
