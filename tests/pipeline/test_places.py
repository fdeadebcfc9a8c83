"""Where results can and cannot go: one sentence, and nothing half-written."""

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

import tagseg
from tagseg.errors import BadInput
from tagseg.files import write_aside
from tests.conftest import TINY


def write(path: Path, text: str = "a") -> None:
    with write_aside(path) as aside:
        aside.write_text(text)


def test_below_a_file_and_in_place_of_a_folder(tmp_path: Path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.txt").mkdir()
    for path in (tmp_path / "file" / "a.txt", tmp_path / "folder.txt", tmp_path / ("n" * 300)):
        with pytest.raises(BadInput, match="cannot be written"):
            write(path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.txt"]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="the superuser may write everywhere")
def test_read_only_folders(tmp_path: Path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(BadInput, match="cannot be written"):
            write(tmp_path / "a.txt")
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("call", ["chmod", "open"])
def test_disks_of_others_that_can_less(tmp_path: Path, call: str, monkeypatch: pytest.MonkeyPatch):
    """No owners (CIFS), or folders that cannot be opened."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(errno.EPERM, "not permitted")

    monkeypatch.setattr(os, call, refuse)
    write(tmp_path / "a.txt")
    assert (tmp_path / "a.txt").read_text() == "a"


def test_a_disk_that_is_full_when_the_file_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    write(tmp_path / "a.txt")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BadInput, match="disk is full"):
        write(tmp_path / "a.txt", "b")
    assert (tmp_path / "a.txt").read_text() == "a"
    assert len(list(tmp_path.iterdir())) == 1


def test_disks_without_locks(tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fcntl = pytest.importorskip("fcntl")

    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert tagseg.fit(tiny_set, tmp_path / "run", recipe="cam", settings=TINY, until="train", quiet=True).model is None


def test_a_run_whose_folder_goes_is_told(tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import tagseg.pipeline.stages.mine as stage

    mine = stage.mine_part

    def gone(*arguments: Any, **options: Any) -> Any:
        shutil.rmtree(tmp_path / "run")
        return mine(*arguments, **options)

    monkeypatch.setattr(stage, "mine_part", gone)
    with pytest.raises(BadInput, match="removed while the run was at work"):
        tagseg.fit(tiny_set, tmp_path / "run", recipe="cam", settings=TINY, quiet=True)


def test_a_run_in_the_place_of_a_file(tiny_set: Path, tmp_path: Path):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(BadInput):
            tagseg.fit(tiny_set, out, recipe="cam", settings=TINY, quiet=True)
