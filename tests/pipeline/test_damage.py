"""A stage counts as finished only while its files are whole; what is not is made again, and the run says so."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tagseg
from tagseg.data.images import read_index_png, voc_palette, write_mask
from tagseg.methods.cam import CAM
from tests.conftest import TINY, interrupted_in

ONE_OF_EVERY_KIND = [
    "train/classifier.safetensors",
    "mine/000000.safetensors",
    "masks/train_00003.png",
    "segment/model.safetensors",
    "report/predictions/val_00012.png",
    "report/maps/000000.safetensors",
    "metrics.json",
]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(bytes(content))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def remove(path: Path) -> None:
    path.unlink()


@pytest.fixture
def own_run(tiny_run: Any, tmp_path: Path) -> Path:
    """A copy of the finished run, to be damaged."""
    shutil.copytree(tiny_run.folder, tmp_path / "run")
    return tmp_path / "run"


def as_before(run: Path, whole: Path) -> None:
    for path in whole.rglob("*"):
        if path.suffix in (".png", ".safetensors") or path.name in ("metrics.json", "model.json", "classifier.json"):
            again = run / path.relative_to(whole)
            assert again.read_bytes() == path.read_bytes(), path.name


@pytest.mark.parametrize("damage", [flip, truncate, remove])
def test_what_is_damaged_is_made_again_and_nothing_else(
    damage: Any, tiny_set: Path, tiny_run: Any, own_run: Path, capsys: pytest.CaptureFixture[str]
):
    for name in ONE_OF_EVERY_KIND:
        damage(own_run / name)
    left = {p: p.stat().st_mtime_ns for p in (own_run / "masks").glob("*.png")}
    tagseg.fit(tiny_set, own_run, recipe="cam", settings=TINY)
    said = capsys.readouterr().out
    for name in ONE_OF_EVERY_KIND:
        if not name.startswith("report/") and name != "metrics.json":  # of a stage the first one is named
            what = "is missing" if damage is remove else "is not as it was written"
            assert f"made again, because {name} {what}" in said, said
    assert "report: made again, because" in said
    assert "(2 more)" in said
    as_before(own_run, tiny_run.folder)
    left.pop(own_run / "masks" / "train_00003.png", None)
    assert all(path.stat().st_mtime_ns == when for path, when in left.items())
    kept = list(own_run.rglob("*.damaged"))
    assert len(kept) == (0 if damage is remove else len(ONE_OF_EVERY_KIND))  # nothing that lay there is lost
    tagseg.fit(tiny_set, own_run, recipe="cam", settings=TINY)
    assert "made again" not in capsys.readouterr().out


@pytest.mark.parametrize("text", ["", "{", "[]", '{"inputs": 1}', "\x00\x01"])
def test_a_damaged_record_is_a_stage_that_was_not_done(
    text: str, tiny_set: Path, tiny_run: Any, own_run: Path, capsys: pytest.CaptureFixture[str]
):
    (own_run / "masks" / "stage.json").write_text(text)
    tagseg.fit(tiny_set, own_run, recipe="cam", settings=TINY)
    assert "masks: done again, because its record masks/stage.json is damaged" in capsys.readouterr().out
    as_before(own_run, tiny_run.folder)


@pytest.mark.parametrize("name", ["run.json", "files.json"])
def test_what_a_run_only_remembers_is_written_again(name: str, tiny_set: Path, tiny_run: Any, own_run: Path):
    (own_run / name).write_bytes(b"\x00{")
    tagseg.fit(tiny_set, own_run, recipe="cam", settings=TINY, quiet=True)
    assert json.loads((own_run / name).read_text())
    as_before(own_run, tiny_run.folder)


def test_a_record_that_points_elsewhere_touches_nothing_there(tiny_set: Path, own_run: Path, tmp_path: Path):
    outside = tmp_path / "precious.txt"
    outside.write_text("mine")
    record = json.loads((own_run / "masks" / "stage.json").read_text())
    record["files"]["../precious.txt"] = "0"
    (own_run / "masks" / "stage.json").write_text(json.dumps(record))
    tagseg.fit(tiny_set, own_run, recipe="cam", settings=TINY, quiet=True)
    assert outside.read_text() == "mine"


def test_a_run_of_an_older_version_must_be_trained_again_but_still_predicts(
    tiny_set: Path, own_run: Path, tmp_path: Path
):
    marker = json.loads((own_run / "run.json").read_text())
    (own_run / "run.json").write_text(json.dumps({**marker, "format": 1}))
    (own_run / "train" / "classifier.safetensors").rename(own_run / "train" / "attention.safetensors")
    (own_run / "train" / "classifier.json").unlink()
    before = {p: p.stat().st_mtime_ns for p in own_run.rglob("*.*")}
    with pytest.raises(tagseg.BadInput, match="made by an older version of tagseg, and must be trained again"):
        tagseg.fit(tiny_set, own_run, recipe="cam", settings=TINY, quiet=True)
    photos = tiny_set / "images"
    with pytest.raises(
        tagseg.BadInput, match="made by an older version of tagseg; its classifier must be trained again"
    ):
        tagseg.explain([photos], own_run, tmp_path / "maps", quiet=True)
    assert before == {p: p.stat().st_mtime_ns for p in own_run.rglob("*.*")}
    assert tagseg.predict(own_run, [next(photos.glob("*.png"))], tmp_path / "masks", quiet=True)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("classifier.json", b"{", "this description of a classifier is damaged"),
        ("classifier.json", b'{"format": 1}', "this description of a classifier is damaged"),
        ("classifier.safetensors", b"weights", "files are damaged or do not belong together"),
    ],
)
def test_a_damaged_classifier_is_told(
    name: str, content: bytes, words: str, tiny_set: Path, own_run: Path, tmp_path: Path
):
    (own_run / "train" / name).write_bytes(content)
    with pytest.raises(tagseg.BadInput, match=words):
        tagseg.explain([tiny_set / "images"], own_run, tmp_path / "maps", quiet=True)


def test_a_damaged_checkpoint_is_begun_anew(
    tiny_set: Path, tiny_run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    with interrupted_in(CAM, epoch=1):
        tagseg.fit(tiny_set, tmp_path / "run", recipe="cam", settings=TINY, quiet=True)
    flip(tmp_path / "run" / "train" / "last.ckpt")
    tagseg.fit(tiny_set, tmp_path / "run", recipe="cam", settings=TINY)
    assert "train: begins anew, because its checkpoint last.ckpt is damaged" in capsys.readouterr().out
    as_before(tmp_path / "run", tiny_run.folder)


def test_masks_corrected_by_hand_are_kept_and_learnt(tiny_run: Any, tiny_set: Path, tmp_path: Path, capsys: Any):
    run = tmp_path / "run"
    shutil.copytree(tiny_run.folder, run)
    path = sorted((run / "masks").glob("*.png"))[2]
    before = read_index_png(path)
    corrected = np.where(before == 0, 3, before)
    # as an editor of pictures would save it, in colours
    Image.fromarray(voc_palette()[corrected]).save(path)
    bad = sorted((run / "masks").glob("*.png"))[3]
    write_mask(bad, np.full_like(read_index_png(bad), 200))
    as_it_was = (tiny_run.folder / "masks" / bad.name).read_bytes()
    tagseg.fit(tiny_set, run, recipe="cam", settings=TINY)
    said = "".join(capsys.readouterr())
    assert f"masks/{path.name} was corrected by hand, and is kept" in said
    assert f"masks/{bad.name} is not as it was written" in said
    assert "segment: done again, because the stage 'masks' before it changed" in said
    np.testing.assert_array_equal(read_index_png(path), corrected)
    assert bad.read_bytes() == as_it_was
    # nothing is done twice
    tagseg.fit(tiny_set, run, recipe="cam", settings=TINY)
    assert "segment: already done" in "".join(capsys.readouterr())
    # other settings make other masks, but not of this photograph
    tagseg.fit(tiny_set, run, recipe="cam", settings={**TINY, "masks.refine": "none"}, quiet=True)
    np.testing.assert_array_equal(read_index_png(path), corrected)
