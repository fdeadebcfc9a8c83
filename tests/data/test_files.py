import errno
import os
from pathlib import Path

import pytest

from tagseg.errors import BadInput, explain_full_disk
from tagseg.files import read_json, write_aside, write_json


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path):
    path = tmp_path / "deep" / "value.json"
    write_json(path, {"a": 1})

    def fail_half_way() -> None:
        with write_aside(path) as aside:
            aside.write_text("{half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_half_way()
    assert read_json(path) == {"a": 1}
    assert [p.name for p in path.parent.iterdir()] == ["value.json"]
    assert path.stat().st_mode & 0o444


def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BadInput, match="the disk is full; free some space"), explain_full_disk(tmp_path):
        write_json(tmp_path / "value.json", 1)
    assert list(tmp_path.iterdir()) == []


def test_other_errors_pass(tmp_path: Path):
    with pytest.raises(PermissionError), explain_full_disk(tmp_path):
        raise PermissionError
