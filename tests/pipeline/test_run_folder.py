import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from tagseg.errors import BadInput
from tagseg.pipeline.records import Record
from tagseg.pipeline.run_folder import RunFolder


class Pieces(Record):
    pieces: int


class Recorder:
    """A run folder whose work is counted and whose sentences are kept."""

    def __init__(self, path: Path) -> None:
        self.said: list[str] = []
        self.done: list[str] = []
        self.folder = RunFolder(path, path.parent / "data", "digest", 1.0, self.said.append)

    def stage(self, name: str, inputs: dict[str, Any], fail: bool = False) -> Any:
        def work(folder: Path) -> Pieces:
            self.done.append(name)
            (folder / "piece").touch()
            if fail:
                raise KeyboardInterrupt
            return Pieces(pieces=len(list(folder.glob("piece*"))))

        return self.folder.complete(name, inputs, Pieces, work)

    def close(self) -> None:
        self.folder._lock.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run"


def test_a_finished_stage_is_kept(path: Path):
    first = Recorder(path)
    made = first.stage("train", {"a": (1, 2)})
    first.close()
    second = Recorder(path)
    kept = second.stage("train", {"a": (1, 2)})
    assert second.done == []
    assert second.said == ["train: already done, kept"]
    assert (kept.key, kept.record) == (made.key, made.record)


def test_an_interrupted_stage_goes_on_with_its_pieces(path: Path):
    first = Recorder(path)
    with pytest.raises(KeyboardInterrupt):
        first.stage("train", {"a": 1}, fail=True)
    first.close()
    (path / "train" / "piece2").touch()
    second = Recorder(path)
    assert second.stage("train", {"a": 1}).record.pieces == 2
    assert second.said == ["train: goes on where it was interrupted"]


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ({"a": 1}, {"a": 2}, "a was 1 and is now 2"),
        ({"settings": {"b": 1, "c": 2}}, {"settings": {"b": 1, "c": 3}}, "settings.c was 2 and is now 3"),
        ({"photographs": "x"}, {"photographs": "y"}, "the photographs or their tags changed"),
        ({"after mine": "x"}, {"after mine": "y"}, "the stage 'mine' before it changed"),
    ],
)
def test_a_changed_stage_is_done_again_from_nothing_and_says_why(path: Path, before: dict, after: dict, reason: str):
    recorder = Recorder(path)
    recorder.stage("masks", before)
    (path / "masks" / "piece2").touch()
    assert recorder.stage("masks", after).record.pieces == 1
    assert recorder.said == [f"masks: done again, because {reason}"]


def test_folders_of_others_are_refused_and_left_alone(path: Path, tmp_path: Path):
    path.mkdir()
    (path / "thesis.tex").write_text("years of work")
    with pytest.raises(BadInput, match="something else"):
        Recorder(path)
    assert [p.name for p in path.iterdir()] == ["thesis.tex"]
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="this is a file"):
        Recorder(tmp_path / "file")


def test_a_run_on_other_data_is_refused(path: Path):
    Recorder(path).close()
    with pytest.raises(BadInput, match="holds a run on"):
        RunFolder(path, path.parent / "other", "other digest", 1.0, print)


def test_two_at_once_are_refused(path: Path):
    first = Recorder(path)
    said = (path / "run.json").read_text()
    with pytest.raises(BadInput, match="another tagseg is at work"):
        Recorder(path)
    with pytest.raises(BadInput, match="another tagseg is at work"):
        RunFolder(path, path.parent, "digest", 1.0, print, masks="others")
    assert (path / "run.json").read_text() == said  # nothing of the first one's is written over
    first.close()
    Recorder(path).close()


def test_a_disk_without_room_is_refused_before_anything_is_written(path: Path, monkeypatch: pytest.MonkeyPatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, 500_000))
    with pytest.raises(BadInput, match="has 0 MB left and the run needs about 1"):
        Recorder(path)
    assert not path.exists()


@pytest.mark.parametrize("text", ['{"wandb": 1}', "not ours", '{"format": "1.0", "data": "x", "digest": "y"}'])
def test_a_file_of_somebody_else_that_is_called_like_ours_is_left_alone(path: Path, text: str):
    (path / "masks").mkdir(parents=True)
    (path / "run.json").write_text(text)
    (path / "masks" / "drawn_by_hand.png").write_bytes(b"hours of work")
    with pytest.raises(BadInput, match="something else"):
        Recorder(path)
    assert (path / "run.json").read_text() == text
    assert (path / "masks" / "drawn_by_hand.png").exists()


def test_a_stage_on_another_disk_is_cleared_there(path: Path, tmp_path: Path):
    recorder = Recorder(path)
    recorder.stage("mine", {"a": 1})
    (tmp_path / "elsewhere").mkdir()
    (path / "mine").rename(tmp_path / "elsewhere" / "mine")
    (path / "mine").symlink_to(tmp_path / "elsewhere" / "mine", target_is_directory=True)
    (path / "mine" / "piece2").touch()
    assert recorder.stage("mine", {"a": 2}).record.pieces == 1
    assert (path / "mine").is_symlink()


def test_whoever_depends_on_a_stage_depends_on_what_it_left(path: Path):
    """A network trained again with other bits, as on another machine, is another one for the stages after it."""
    keys = []
    for content in ("one", "one", "other"):
        recorder = Recorder(path)
        (path / "train").mkdir(exist_ok=True)
        (path / "train" / "stage.json").unlink(missing_ok=True)

        def work(folder: Path, content: str = content) -> Pieces:
            (folder / "weights.safetensors").write_text(content)
            return Pieces(pieces=1)

        keys.append(recorder.folder.complete("train", {"a": 1}, Pieces, work).key)
        recorder.close()
    assert keys[0] == keys[1] != keys[2]


def test_what_others_put_into_a_folder_is_nobodys_business(path: Path):
    recorder = Recorder(path)
    recorder.stage("train", {"a": 1})
    for name in (".DS_Store", "Thumbs.db", "notes.txt"):
        (path / "train" / name).write_text("x")
    recorder.stage("train", {"a": 1})
    recorder.stage("train", {"a": 2})
    (path / "train" / "piece.png").write_bytes(b"x")
    assert recorder.said[0] == "train: already done, kept"


def test_nothing_that_was_put_aside_is_put_over_or_cleared(path: Path):
    recorder = Recorder(path)

    def work(folder: Path) -> Pieces:
        (folder / "mask.png").write_text("made")
        return Pieces(pieces=1)

    for edit in ("first", "second"):
        recorder.folder.complete("masks", {"a": 1}, Pieces, work)
        (path / "masks" / "mask.png").write_text(edit)
    recorder.folder.complete("masks", {"a": 1}, Pieces, work)
    recorder.folder.complete("masks", {"a": 2}, Pieces, work)
    kept = sorted(p.read_text() for p in (path / "masks").glob("*.damaged"))
    assert kept == ["first", "second"]


def test_files_that_only_end_like_ours_are_kept(tmp_path: Path):
    from tagseg.files import remove_partial

    for name in ("thesis.partial", "a.b.partial", "map.safetensors.17.partial"):
        (tmp_path / name).touch()
    remove_partial(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.b.partial", "thesis.partial"]
