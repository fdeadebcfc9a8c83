import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tagseg
from tagseg.data.images import read_index_png
from tagseg.data.video import frames, write_video
from tests.data.trees import mask, photo


def test_masks_of_files_and_folders(tiny_run: Any, tmp_path: Path):
    photo(tmp_path / "in/deep/a.png", (33, 50))
    photo(tmp_path / "in/b.jpg", (21, 20))
    photo(tmp_path / "c.png", (40, 41))
    written = tagseg.predict(
        tiny_run.folder, [tmp_path / "in", tmp_path / "c.png"], tmp_path / "out", overlay=True, quiet=True
    )
    assert sorted(p.relative_to(tmp_path / "out").as_posix() for p in written) == ["b.png", "c.png", "deep/a.png"]
    for name, size in (("deep/a", (33, 50)), ("b", (21, 20)), ("c", (40, 41))):
        assert read_index_png(tmp_path / "out" / f"{name}.png").shape == size
        with Image.open(tmp_path / "out" / f"{name}.overlay.jpg") as picture:
            assert picture.width == size[1]
            assert picture.height >= size[0]  # classes are named below


def test_frames_of_a_video(tiny_run: Any, tmp_path: Path):
    rng = np.random.default_rng(0)
    with write_video(tmp_path / "in/walk.mp4", 10) as add:
        for _ in range(7):
            add(np.repeat(np.repeat(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8), 8, axis=0), 8, axis=1))
    photo(tmp_path / "in/a.png", (33, 50))
    written = tagseg.predict(tiny_run.folder, [tmp_path / "in"], tmp_path / "out", overlay=True, every=3, quiet=True)
    names = [p.relative_to(tmp_path / "out").as_posix() for p in written]
    assert names == ["a.png", "walk/000000.png", "walk/000003.png", "walk/000006.png"]
    assert read_index_png(written[1]).shape == (48, 64)
    shown = list(frames(tmp_path / "out" / "walk.overlay.mp4"))
    assert len(shown) == 3
    assert shown[0][1].shape[0] > 48  # classes are named below
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "a.overlay.jpg", "a.png", "classes.txt", "walk", "walk.overlay.mp4",
    ]  # fmt: skip
    again = tagseg.predict(tiny_run.folder, [tmp_path / "in/walk.mp4"], tmp_path / "two", quiet=True)
    assert len(again) == 7


def test_one_path_is_enough(tiny_run: Any, tmp_path: Path):
    photo(tmp_path / "in/a.png", (33, 50))
    for number, path in enumerate((tmp_path / "in", str(tmp_path / "in"))):
        assert len(tagseg.predict(tiny_run.folder, path, tmp_path / f"out{number}", quiet=True)) == 1


def video(path: Path, frames: int = 3) -> Path:
    with write_video(path, 10) as add:
        for number in range(frames):
            add(np.full((48, 64, 3), 40 * number, dtype=np.uint8))
    return path


def test_what_was_written_is_no_input(tiny_run: Any, tmp_path: Path):
    """Neither a video with its masks over it, nor what is hidden, nor what lies in the folder of a run."""
    video(tmp_path / "in/walk.mp4")
    video(tmp_path / "in/.hidden.mp4")
    video(tmp_path / "in/run/walk.mp4")
    (tmp_path / "in/run/run.json").write_text("{}")
    for _ in range(2):
        written = tagseg.predict(tiny_run.folder, [tmp_path / "in"], tmp_path / "in/masks", overlay=True, quiet=True)
        assert [p.parent.name for p in written] == ["walk"] * 3


def test_frames_take_no_others_place(tiny_run: Any, tmp_path: Path):
    video(tmp_path / "in/walk.mp4")
    photo(tmp_path / "in/walk/000000.png", (33, 50))
    with pytest.raises(tagseg.BadInput, match="the same names as the photographs below walk/"):
        tagseg.predict(tiny_run.folder, [tmp_path / "in"], tmp_path / "out", quiet=True)
    with pytest.raises(tagseg.BadInput, match="between what lies here"):
        tagseg.predict(tiny_run.folder, [tmp_path / "in/walk.mp4"], tmp_path / "in", quiet=True)


def test_bad_videos_are_left_out(tiny_run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    photo(tmp_path / "in/a.png", (33, 50))
    (tmp_path / "in/b.mp4").write_bytes(b"no video")
    (tmp_path / "names.txt").write_text("a\n")
    written = tagseg.predict(tiny_run.folder, [tmp_path / "in"], tmp_path / "out", skip_bad=True)
    assert [p.name for p in written] == ["a.png"]
    assert "this video cannot be read" in capsys.readouterr().out
    listed = tagseg.predict(
        tiny_run.folder, [tmp_path / "in"], tmp_path / "two", names=tmp_path / "names.txt", quiet=True
    )
    assert [p.name for p in listed] == ["a.png"]


def test_videos_that_are_none(tiny_run: Any, tmp_path: Path):
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(tagseg.BadInput, match=r"a\.mp4: this video cannot be read"):
        tagseg.predict(tiny_run.folder, [tmp_path / "a.mp4"], tmp_path / "out", quiet=True)
    with pytest.raises(tagseg.BadInput, match="every 0"):
        tagseg.predict(tiny_run.folder, [tmp_path / "a.mp4"], tmp_path / "out", every=0, quiet=True)
    with pytest.raises(tagseg.BadInput, match="there is no such video"):
        tagseg.predict(tiny_run.folder, [tmp_path / "b.mp4"], tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()


def test_only_the_photographs_of_a_list(tiny_run: Any, tmp_path: Path):
    for name in ("2008_000001", "2008_000002", "2008_000003"):
        photo(tmp_path / f"JPEGImages/{name}.jpg")
    (tmp_path / "test.txt").write_text("2008_000003\n2008_000001\n")
    how = {"names": tmp_path / "test.txt", "quiet": True}
    written = tagseg.predict(tiny_run.folder, [tmp_path / "JPEGImages"], tmp_path / "out", **how)
    assert [p.name for p in written] == ["2008_000003.png", "2008_000001.png"]
    (tmp_path / "test.txt").write_text("2008_000009\n")
    with pytest.raises(tagseg.BadInput, match="there is no photograph '2008_000009'"):
        tagseg.predict(tiny_run.folder, [tmp_path / "JPEGImages"], tmp_path / "out", **how)
    (tmp_path / "test.txt").write_text("\n")
    with pytest.raises(tagseg.BadInput, match="no names"):
        tagseg.predict(tiny_run.folder, [tmp_path / "JPEGImages"], tmp_path / "out", **how)


def test_bad_photographs(tiny_run: Any, tmp_path: Path):
    photo(tmp_path / "in/a.png")
    (tmp_path / "in/b.png").write_bytes(b"no photograph")
    with pytest.raises(tagseg.BadInput, match=r"b\.png: this is not an image"):
        tagseg.predict(tiny_run.folder, [tmp_path / "in"], tmp_path / "out", quiet=True)
    written = tagseg.predict(tiny_run.folder, [tmp_path / "in"], tmp_path / "out", skip_bad=True, quiet=True)
    assert [p.name for p in written] == ["a.png"]


@pytest.mark.parametrize(
    ("names", "words"),
    [(["x.png"], "no such image"), (["one/a.png", "two/a.png"], "the same name"), (["empty"], "no photographs found")],
)
def test_what_cannot_be_predicted_is_named(tiny_run: Any, tmp_path: Path, names: list[str], words: str):
    for name in ("one/a.png", "two/a.png"):
        photo(tmp_path / name)
    (tmp_path / "empty").mkdir()
    with pytest.raises(tagseg.BadInput, match=words):
        tagseg.predict(tiny_run.folder, [tmp_path / n for n in names], tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()


def test_evaluation_counts_and_writes(tmp_path: Path):
    mask(tmp_path / "pred/a.png", [0, 0, 1, 1], (1, 4))
    mask(tmp_path / "truth/a.png", [0, 1, 1, 255], (1, 4))
    mask(tmp_path / "truth/b.png", [0], (1, 4))
    result = tagseg.evaluate(tmp_path / "pred", tmp_path / "truth", classes=["cat"], out=tmp_path / "e.json")
    assert result.classes["cat"].model_dump() == {"iou": 50.0, "precision": 100.0, "recall": 50.0}
    assert result.classes["background"].iou == 50.0
    assert (result.masks, result.truths_without_prediction) == (1, 1)
    assert json.loads((tmp_path / "e.json").read_text()) == result.model_dump()


def test_evaluation_without_class_names_takes_numbers(tmp_path: Path):
    mask(tmp_path / "pred/a.png", [0, 3])
    mask(tmp_path / "truth/a.png", [0, 3])
    result = tagseg.evaluate(tmp_path / "pred", tmp_path / "truth")
    assert result.miou == 100
    assert list(result.classes) == ["background", "class 1", "class 2", "class 3"]


@pytest.mark.parametrize(
    ("size", "value", "truth", "words"),
    [
        ((20, 31), 1, "a.png", "the mask has 31 x 20 pixels, the truth 30 x 20"),
        ((20, 30), 9, "a.png", "holds the value 9, but there are 1 classes"),
        ((20, 30), 1, "b.png", r"there is no truth .*a\.png"),
    ],
)
def test_masks_that_do_not_fit(tmp_path: Path, size: tuple[int, int], value: int, truth: str, words: str):
    mask(tmp_path / "pred/a.png", [0, value], size)
    mask(tmp_path / "truth" / truth, [0, 1])
    with pytest.raises(tagseg.BadInput, match=words):
        tagseg.evaluate(tmp_path / "pred", tmp_path / "truth", classes=["cat"])


def test_multi_scale_prediction_differs_but_little(tiny_run: Any, tiny_set: Path):
    model = tagseg.load(tiny_run.folder)
    path = next((tiny_set / "images").glob("*.png"))
    one, many = model.probabilities(path), model.probabilities(path, scales=(0.75, 1.0, 1.25), flip=True)
    assert one.shape == many.shape
    assert 0 < np.abs(one - many).mean() < 0.5


def test_evaluation_finds_class_names_and_goes_on(tmp_path: Path, tiny_run: Any):
    for name in ("a", "b"):
        mask(tmp_path / f"pred/{name}.png", [0, 1, 2])
    mask(tmp_path / "truth/a.png", [0, 1, 2])
    names = {
        "list.txt": "cat\ndog\n",
        "coco.json": json.dumps({"categories": [{"id": 9, "name": "dog"}, {"id": 3, "name": "cat"}]}),
    }
    for name, text in names.items():
        (tmp_path / name).write_text(text)
        result = tagseg.evaluate(tmp_path / "pred", tmp_path / "truth", classes=tmp_path / name)
        assert list(result.classes) == ["background", "cat", "dog"]
        assert (result.masks, result.predictions_without_truth) == (1, 1)
    (tmp_path / "truth" / "classes.txt").write_text("cow\nhen\n")
    assert "hen" in tagseg.evaluate(tmp_path / "pred", tmp_path / "truth").classes
    assert len(tagseg.evaluate(tmp_path / "pred", tmp_path / "truth", classes=tiny_run.folder).classes) == 7
    (tmp_path / "list.txt").write_bytes(b"\xff")
    (tmp_path / "coco.json").write_text("{}")
    for name in names:
        with pytest.raises(tagseg.BadInput, match=name):
            tagseg.evaluate(tmp_path / "pred", tmp_path / "truth", classes=tmp_path / name)


def test_truths_that_say_255_for_the_object(tmp_path: Path):
    mask(tmp_path / "pred/a.png", [0, 1])
    mask(tmp_path / "truth/a.png", [0, 255])
    with pytest.raises(tagseg.BadInput, match="255 means ignore"):
        tagseg.evaluate(tmp_path / "pred", tmp_path / "truth", classes=["cat"])


def test_evaluation_pairs_names_as_people_read_them(tmp_path: Path):
    """Composed and decomposed letters, suffixes in capitals; hidden files are no masks."""
    mask(tmp_path / "pred" / (unicodedata.normalize("NFD", "café") + ".png"), [0, 1])
    mask(tmp_path / "truth" / "café.png", [0, 1])
    mask(tmp_path / "pred/b.png", [0, 1])
    mask(tmp_path / "b.png", [0, 1])
    (tmp_path / "b.png").rename(tmp_path / "truth/b.png")
    for folder in ("pred", "truth"):
        mask(tmp_path / folder / ".ipynb_checkpoints/b-checkpoint.png", [1, 0])
        (tmp_path / folder / "._b.png").write_bytes(b"no mask")
    result = tagseg.evaluate(tmp_path / "pred", tmp_path / "truth")
    assert (result.miou, result.masks, result.truths_without_prediction) == (100, 2, 0)


def test_predictions_that_say_255_for_the_object(tmp_path: Path):
    mask(tmp_path / "pred/a.png", [0, 255])
    mask(tmp_path / "truth/a.png", [0, 1])
    with pytest.raises(tagseg.BadInput, match="predictions hold nothing but 0 and 255"):
        tagseg.evaluate(tmp_path / "pred", tmp_path / "truth")


def test_numbers_come_from_both_folders(tmp_path: Path):
    mask(tmp_path / "pred/a.png", [0, 2])
    mask(tmp_path / "truth/a.png", [0, 1])
    assert len(tagseg.evaluate(tmp_path / "pred", tmp_path / "truth").classes) == 3


def test_two_lists_of_classes_that_differ(tmp_path: Path):
    """Each folder means what its own list says; names that are on one list only are told."""
    for folder, names in (("pred", "cat\ndog\n"), ("truth", "dog\ncat\n")):
        mask(tmp_path / folder / "a.png", [0, 1])
        (tmp_path / folder / "classes.txt").write_text(names)
    by_name = tagseg.evaluate(tmp_path / "pred", tmp_path / "truth")
    assert by_name.classes["dog"].iou == 0
    by_number = tagseg.evaluate(tmp_path / "pred", tmp_path / "truth", classes=["cat", "dog"])
    assert by_number.classes["cat"].iou == 100
    (tmp_path / "pred" / "classes.txt").write_text("cat\nhorse\n")
    with pytest.raises(tagseg.BadInput, match="'horse' is no class here"):
        tagseg.evaluate(tmp_path / "pred", tmp_path / "truth")


def test_results_are_no_photographs(tiny_run: Any, tmp_path: Path):
    photo(tmp_path / "in/a.jpg")
    for _ in range(2):
        written = tagseg.predict(tiny_run.folder, [tmp_path / "in"], tmp_path / "in/masks", quiet=True)
        assert [p.relative_to(tmp_path).as_posix() for p in written] == ["in/masks/a.png"]


def test_refined_masks_leave_the_rough_ones_alone(tmp_path: Path):
    photo(tmp_path / "photos/a.jpg")
    mask(tmp_path / "rough/a.png", [0, 1])
    before = (tmp_path / "rough/a.png").read_bytes()
    with pytest.raises(tagseg.BadInput, match="choose another --out"):
        tagseg.refine(tmp_path / "photos", tmp_path / "rough", tmp_path / "rough", quiet=True)
    assert (tmp_path / "rough/a.png").read_bytes() == before
