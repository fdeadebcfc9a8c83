"""The folder of a run: what is done, from which inputs, whether it is still whole, and what must be done again."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Generic, TextIO, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from tagseg.errors import BadInput, brief, explain_full_disk, unwritable
from tagseg.files import (
    RUN_MARKER,
    file_digest,
    free_bytes,
    is_partial,
    make_folder,
    read_json,
    remove_partial,
    write_json,
)
from tagseg.pipeline.records import Record

FORMAT = 2
STAGE = "stage.json"  # the record of a stage, in its folder
CHECKPOINT = "last.ckpt"  # for going on within a stage; nobody needs it afterwards
LOCK = ".lock"  # the file by which one process at a time works on a run
DAMAGED = ".damaged"  # ends the name of a file that was put aside because it is not as it was written
AFTER = "after "  # before the name of a stage, among the inputs of one that depends on it

_KINDS = (".json", ".safetensors", ".png", ".npy", ".html")  # of files that stages leave; others are not tagseg's

R = TypeVar("R", bound=Record)


class StageFile(BaseModel):
    """What `stage.json` holds.

    inputs: what the stage's result depends on.
    finished: whether it was done to the end.
    values: the stage's own record.
    seconds, resumed: see `Finished`.
    files: for every file that the finished stage left, its path below the run's folder and a digest of its content.
    corrected: those of them that a person has edited, which are never made again.
    made: for each of these, the digest of what the stage itself had made.
    """

    model_config = ConfigDict(frozen=True)

    inputs: dict[str, Any]
    finished: bool
    values: dict[str, Any] | None = None
    seconds: float = 0.0
    resumed: bool = False
    files: dict[str, str] = {}
    corrected: tuple[str, ...] = ()
    made: dict[str, str] = {}


@dataclass(frozen=True)
class Finished(Generic[R]):
    """A finished stage.

    record: what it left as numbers.
    key: names its inputs and the content of its files; whoever depends on the stage depends on this.
    seconds: how long it took, since it last went on.
    resumed: whether it was interrupted or mended in between.
    """

    record: R
    key: str
    seconds: float
    resumed: bool


class RunFolder:
    """One run on the disk.

    Args:
        path: the folder; made if it is not there.
        data: the data set's folder.
        digest: digest of its training photographs and tags.
        needed_mb: how much room a run from the beginning takes, megabytes.
        say: shows a sentence to the person who waits.
        network: the stage whose network's class maps count, for whoever opens the run later.
        masks: where the masks to measure with are, if not in the data set; kept for the same.
        tags: where the tags of a VOC devkit come from; kept for the same.

    Raises:
        BadInput: the folder holds something else, a run on other data, or a run that is going on right now; or the disk
            is all but full.
    """

    def __init__(
        self,
        path: Path,
        data: Path,
        digest: str,
        needed_mb: float,
        say: Callable[[str], None],
        network: str = "train",
        masks: str | None = None,
        tags: str = "xml",
    ) -> None:
        self.path, self.say = path, say
        marker = path / RUN_MARKER
        if marker.exists():
            _check_marker(marker, data, digest, say)
        elif path.exists() and not path.is_dir():
            raise BadInput(f"{path}: this is a file; choose another --out (nothing was changed).")
        elif path.exists() and not all(is_partial(p) or p.name == LOCK for p in path.iterdir()):
            raise _something_else(path)
        _check_room(path, needed_mb)
        with explain_full_disk(path):
            make_folder(path)
            self._lock = lock_run(path)  # before anything of another one's is written over
            described = {"format": FORMAT, "data": str(data.resolve()), "digest": digest, "network": network}
            if masks is not None:
                described["masks"] = str(Path(masks).resolve())
            if tags != "xml":
                described["tags"] = tags
            write_json(marker, described)
        remove_partial(path)

    def complete(
        self,
        name: str,
        inputs: dict[str, Any],
        kind: type[R],
        work: Callable[[Path], R],
        outputs: tuple[str, ...] = (),
        edited: Callable[[Path], bool] = lambda path: False,  # noqa: ARG005
        describe: Callable[[Path], dict[str, Any]] = lambda folder: {},  # noqa: ARG005
    ) -> Finished[R]:
        """Does `work(folder)` unless it was done before with the same inputs and everything it left is still whole.

        Work goes on where it was interrupted, and makes only what is not there: so it mends a stage of which files are
        missing, or damaged, which are put aside first. A stage begun with other inputs is cleared. What a person has
        edited stays as it is, and what comes after is done again. What is done, and why, is said.

        Args:
            name: of the stage, and of its folder.
            inputs: what its result depends on, as JSON.
            kind: the class of the stage's record.
            work: makes what is not in the folder yet.
            outputs: files that it leaves in the run's folder itself, beside those in its own.
            edited: whether a file that is not as it was written is whole, so that a person must have edited it.
            describe: what files in the folder are to hold that only say how the result is used, by name, as JSON: no
                reason to make the result again; what comes after the stage is done again if that changes anything.
        """
        folder = self.path / name
        inputs = json.loads(json.dumps(inputs))  # as they will be read back
        before = _read_stage(folder / STAGE)
        broken = [] if before is None else self._broken(before.files)
        if before is not None:
            before, broken = self._with_corrections(name, before, broken, edited)
        corrected, made = ((), {}) if before is None else (before.corrected, before.made)
        resumed = False
        if before is None:
            if (folder / STAGE).exists():
                self.say(f"{name}: done again, because its record {name}/{STAGE} is damaged")
        elif before.inputs != inputs:
            self.say(f"{name}: done again, because {_difference(before.inputs, inputs)}")
        elif not before.finished:
            resumed = True
            self.say(f"{name}: goes on where it was interrupted")
        else:
            record = _parsed(kind, before.values)
            if record is not None and not broken:
                self.say(f"{name}: already done, kept")
                before = self._described(name, before, describe)
                return Finished(record, _key(before), before.seconds, before.resumed)
            resumed = True
            self._put_aside(name, broken)
        with explain_full_disk(self.path):
            if not resumed:
                _clear(folder, {self.path / file for file in corrected})
            begun_file = StageFile(inputs=inputs, finished=False, corrected=corrected, made=made)
            write_json(folder / STAGE, begun_file.model_dump(mode="json"))
            begun = time.perf_counter()
            record = work(folder)
            seconds = round(time.perf_counter() - begun, 1)
            for file, value in describe(folder).items():
                write_json(folder / file, value)
            (folder / CHECKPOINT).unlink(missing_ok=True)
            if not (self.path / RUN_MARKER).exists():
                raise BadInput(
                    f"{self.path}: this folder was removed while the run was at work; remove what is left of it, and "
                    "run the same command again."
                )
            done = StageFile(
                inputs=inputs,
                finished=True,
                values=record.present(),
                seconds=seconds,
                resumed=resumed,
                files={path.relative_to(self.path).as_posix(): _digest(path) for path in self._left(folder, outputs)},
                corrected=corrected,
                made=made,
            )
            write_json(folder / STAGE, done.model_dump(mode="json"))
        return Finished(record, _key(done), seconds, resumed)

    def corrected(self, name: str) -> set[str]:
        """Returns the files in the folder of a stage that a person has edited, by their paths in it without suffix."""
        stage = _read_stage(self.path / name / STAGE)
        files = () if stage is None else stage.corrected
        return {Path(file).relative_to(name).with_suffix("").as_posix() for file in files}

    def _described(self, name: str, before: StageFile, describe: Callable[[Path], dict[str, Any]]) -> StageFile:
        """The record of a stage that stays as it is, but for what describes it.

        While a file is replaced, no digest of it is kept, so that a process that is killed leaves nothing that looks
        damaged.
        """
        folder = self.path / name
        for file, value in describe(folder).items():
            key = f"{name}/{file}"
            if key in before.files and read_json(folder / file) == json.loads(json.dumps(value)):
                continue
            self.say(f"{name}: is used otherwise now")
            with explain_full_disk(self.path):
                files = {other: digest for other, digest in before.files.items() if other != key}
                before = self._with_files(name, before, files)
                write_json(folder / file, value)
                before = self._with_files(name, before, {**files, key: _digest(folder / file)})
        return before

    def _with_files(self, name: str, before: StageFile, files: dict[str, str]) -> StageFile:
        now = before.model_copy(update={"files": dict(sorted(files.items()))})
        write_json(self.path / name / STAGE, now.model_dump(mode="json"))
        return now

    def _left(self, folder: Path, outputs: tuple[str, ...]) -> Iterator[Path]:
        """The files that a stage left; what file managers or people put beside them is not its business."""
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.suffix in _KINDS and path.name != STAGE and not path.name.startswith("."):
                yield path
        yield from (self.path / name for name in outputs)

    def _broken(self, files: dict[str, str]) -> list[Path]:
        """Those of the files that are missing, or are not as they were written."""
        return [path for name, digest in files.items() if _digest(path := self.path / name) != digest]

    def _with_corrections(
        self, name: str, before: StageFile, broken: list[Path], edited: Callable[[Path], bool]
    ) -> tuple[StageFile, list[Path]]:
        """The record of a stage in which the files that a person has edited stand as they are now, and the files that
        are broken but for these."""
        whole = {path for path in broken if path.is_file() and edited(path)}
        new = sorted(path.relative_to(self.path).as_posix() for path in whole)
        if not new:
            return before, broken
        files = {**before.files, **{file: _digest(self.path / file) for file in new}}
        made = {**{file: before.files[file] for file in new if file not in before.corrected}, **before.made}
        back = {file for file in new if made.get(file) == files[file]}  # as the stage itself had made it
        drawn = [file for file in new if file not in back]
        if drawn:
            more = f" ({len(drawn) - 1} more)" if len(drawn) > 1 else ""
            self.say(f"{name}: {drawn[0]} was corrected by hand{more}, and is kept")
        if back:
            self.say(f"{name}: {len(back)} corrections by hand were taken back")
        corrected = tuple(sorted({*before.corrected, *drawn} - back))
        made = {file: digest for file, digest in made.items() if file in corrected}
        now = before.model_copy(update={"files": files, "corrected": corrected, "made": made})
        write_json(self.path / name / STAGE, now.model_dump(mode="json"))
        return now, [path for path in broken if path not in whole]

    def _put_aside(self, name: str, broken: list[Path]) -> None:
        if not broken:
            self.say(f"{name}: done again, because its record {name}/{STAGE} is damaged")
            return
        first, more = broken[0], len(broken) - 1
        aside = _free_name(first)
        what = f"is not as it was written (kept as {aside.name})" if first.exists() else "is missing"
        also = f" ({more} more)" if more else ""
        self.say(f"{name}: made again, because {first.relative_to(self.path)} {what}{also}")
        for path in broken:
            if path.exists():
                os.replace(path, _free_name(path))


def _check_marker(marker: Path, data: Path, digest: str, say: Callable[[str], None]) -> None:
    path = marker.parent
    try:
        before = read_json(marker)
        made, root, seen = int(before["format"]), str(before["data"]), str(before["digest"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        if not any(_read_stage(stage) for stage in path.glob(f"*/{STAGE}")):  # somebody else's file of this name
            raise _something_else(path) from error
        say(f"{marker}: this file was damaged, and is written again")
        return
    if made != FORMAT:
        raise BadInput(
            f"{path}: this run was made by {'an older' if made < FORMAT else 'a newer'} version of tagseg, and must be "
            "trained again: choose another --out (nothing was changed; 'tagseg predict' still reads its model)."
        )
    if root != str(data.resolve()) and seen != digest:
        raise BadInput(f"{path}: this folder holds a run on {root}; choose another --out (nothing was changed).")


def _something_else(path: Path) -> BadInput:
    return BadInput(f"{path}: this folder holds something else than a run; choose another --out (nothing was changed).")


def _check_room(path: Path, needed_mb: float) -> None:
    free = free_bytes(path) / 1e6
    used = sum(f.stat().st_size for f in path.rglob("*") if f.is_file()) / 1e6 if path.is_dir() else 0
    if free < needed_mb - used:
        raise BadInput(
            f"{path}: the disk has {free:.0f} MB left and the run needs about {needed_mb - used:.0f}; "
            "free some space or choose another --out."
        )


def _read_stage(path: Path) -> StageFile | None:
    """The record of a stage; None where there is none, or none that can be read."""
    try:
        found = StageFile.model_validate(read_json(path))
    except (OSError, ValueError):  # pydantic's and JSON's errors are ValueErrors
        return None
    inside = all(not Path(name).is_absolute() and ".." not in Path(name).parts for name in found.files)
    return found if inside else None


def _parsed(kind: type[R], values: dict[str, Any] | None) -> R | None:
    try:
        return kind.model_validate(values)
    except ValidationError:
        return None


def _digest(path: Path) -> str:
    """Of a file's content; empty where there is no file."""
    return file_digest(path) if path.is_file() else ""


def _key(done: StageFile) -> str:
    """Names what a stage depended on and what it left. Mended files with the same content change nothing for those who
    depend on it; others, as of a network that was trained on another machine, are others for them too."""
    text = json.dumps([done.inputs, done.files], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _free_name(path: Path) -> Path:
    """Where a file that is not as it was written is kept, beside its old place."""
    names = (path.name + (f".{n}" if n > 1 else "") + DAMAGED for n in count(1))
    return next(aside for name in names if not (aside := path.with_name(name)).exists())


def _clear(folder: Path, corrected: set[Path]) -> None:
    """Removes what a stage left, but nothing that was put aside or `corrected` by hand; the folder itself may be a link
    to another disk."""
    (folder / STAGE).unlink(missing_ok=True)  # first: from here on nothing in the folder counts as done
    try:
        for path in sorted(folder.rglob("*"), reverse=True) if folder.is_dir() else ():  # what is inside comes first
            if not path.is_dir() or path.is_symlink():
                if not path.name.endswith(DAMAGED) and path not in corrected:
                    path.unlink()
            elif not any(path.iterdir()):
                path.rmdir()
    except OSError as error:
        raise BadInput(
            f"{folder}: old files could not be removed ({brief(error)}); remove them and run again."
        ) from error


def _difference(before: dict[str, Any], after: dict[str, Any], prefix: str = "") -> str:
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key), after.get(key)
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            return _difference(old, new, f"{prefix}{key}.")
        if key.startswith(AFTER):
            return f"the stage '{key.removeprefix(AFTER)}' before it changed"
        if key == "photographs":
            return "the photographs or their tags changed"
        return f"{prefix}{key} was {old!r} and is now {new!r}"
    return "its inputs changed"


def data_of(run: Path, advice: str) -> Path:
    """Returns the folder of the data set that a run is on.

    Args:
        run: the folder of a run.
        advice: what to do where it is no longer there.

    Raises:
        BadInput: it is not, or the run does not say.
    """
    try:
        root = Path(str(read_json(run / RUN_MARKER)["data"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{run / RUN_MARKER}: this file is damaged ({brief(error)}); {advice}.") from error
    if not root.is_dir():
        raise BadInput(f"{root}: the data set of this run is no longer there; {advice}.")
    return root


def is_finished(stage: Path) -> bool:
    """Returns whether the stage whose folder this is was done to the end."""
    found = _read_stage(stage / STAGE)
    return found is not None and found.finished


def labels_of(run: Path) -> Path | None:
    """Returns the folder of a run's pseudo-masks, from which its network learns; None where they are not finished.

    What a decoder has labelled anew counts if the run still has that stage: the network's own record says so.
    """
    segment = _read_stage(run / "segment" / STAGE)
    learnt = segment.inputs if segment is not None else {}
    if f"{AFTER}relabel" in learnt or (f"{AFTER}masks" not in learnt and (run / "relabel" / STAGE).is_file()):
        return run / "relabel" if is_finished(run / "relabel") else None
    return run / "masks" if is_finished(run / "masks") else None


def lock_run(path: Path) -> TextIO | None:
    """Keeps others from working on a run as long as what is returned lives, at most as long as the process.

    Returns:
        the lock; None where the system has none.

    Raises:
        BadInput: another process is at work on the run.
    """
    try:
        import fcntl
    except ImportError:
        return None
    try:
        handle = open(path / LOCK, "w", encoding="utf-8")  # noqa: SIM115
    except OSError as error:
        raise unwritable(path / LOCK, error) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        handle.close()
        if error.errno not in (errno.EAGAIN, errno.EACCES):  # a disk that has no locks
            return None
        raise BadInput(
            f"{path}: another tagseg is at work on this run; wait for it or choose another --out."
        ) from error
    handle.write(f"{os.getpid()}\n")
    handle.flush()
    return handle
