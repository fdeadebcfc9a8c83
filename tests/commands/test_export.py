"""`tagseg export`: of a run and of masks of any origin, and what it refuses."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tagseg
from tagseg.data.images import read_index_png, write_mask
from tagseg.export.mask_formats import mask_formats, read_masks
from tagseg.files import read_json, write_json


def masks_of(run: Path) -> dict[str, np.ndarray]:
    return {path.stem: read_index_png(path) for path in (run / "masks").glob("*.png")}


@pytest.mark.parametrize("kind", mask_formats())
def test_pseudo_masks_of_a_run(kind: str, tiny_run: Any, tmp_path: Path):
    found = tagseg.export_masks(tiny_run.folder, kind, tmp_path / "out", quiet=True)
    assert found.path.exists()
    read = read_masks(found.path)
    right = masks_of(tiny_run.folder)
    assert set(read.masks) == set(right)
    assert found.photographs == len(right)
    for name, mask in right.items():
        np.testing.assert_array_equal(read.masks[name](), mask)
    result = tagseg.evaluate(found.path, tiny_run.folder / "masks")  # of another format, by names
    assert result.miou == 100


def test_what_the_network_says_is_for_evaluation(tiny_run: Any, tmp_path: Path):
    opened = tagseg.export_masks(tiny_run.folder, "yolo", tmp_path / "out", splits=("train", "val"), quiet=True).path
    text = opened.read_text()
    assert "train: images/train\nval: images/val\n" in text
    assert len(list((opened.parent / "images" / "val").iterdir())) == len(
        list((tiny_run.folder / "report" / "predictions").glob("*.png"))
    )


def test_from_one_format_to_another(tiny_set: Path, tiny_run: Any, tmp_path: Path):
    """COCO's numbers, CVAT's names, Label Studio's order of the alphabet: the same pixels of the same classes."""
    previous = tiny_run.folder
    for number, kind in enumerate(["coco", "cvat", "labelstudio", "yolo", "png", "voc", "coco"]):
        out = tmp_path / f"{number}"
        previous = tagseg.export_masks(previous, kind, out, images=tiny_set / "images", quiet=True).path
    last = read_masks(previous)
    for name, mask in masks_of(tiny_run.folder).items():
        np.testing.assert_array_equal(last.masks[name](), mask)


def test_rough_masks_of_any_format_are_refined(tiny_set: Path, tiny_run: Any, tmp_path: Path):
    coco = tagseg.export_masks(tiny_run.folder, "coco", tmp_path / "coco", quiet=True).path
    ways = [(tiny_run.folder / "masks", "a"), (coco / "instances_train.json", "b")]
    for masks, out in ways:
        tagseg.refine(tiny_set / "images", masks, tmp_path / out, refine="superpixels", quiet=True)
    for path in sorted((tmp_path / "a").glob("*.png")):
        np.testing.assert_array_equal(read_index_png(path), read_index_png(tmp_path / "b" / path.name))


def test_nothing_is_written_over(tiny_run: Any, tmp_path: Path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(tagseg.BadInput, match="this is there already"):
        tagseg.export_masks(tiny_run.folder, "png", tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_bad_input_leaves_nothing(tiny_set: Path, tiny_run: Any, tmp_path: Path):
    masks, out = tmp_path / "masks", tmp_path / "out"
    write_mask(masks / "odd.png", np.full((5, 6), 1, dtype=np.uint8))
    with pytest.raises(tagseg.BadInput, match="nothing says what the classes are called"):
        tagseg.export_masks(masks, "png", out)
    (masks / "classes.txt").write_text("cat\n")
    with pytest.raises(tagseg.BadInput, match="no photograph of the mask odd"):
        tagseg.export_masks(masks, "yolo", out)
    with pytest.raises(tagseg.BadInput, match="no photograph of the mask odd"):
        tagseg.export_masks(masks, "coco", out, images=tiny_set / "images")
    Image.new("RGB", (6, 7)).save(tmp_path / "odd.jpg")
    with pytest.raises(tagseg.BadInput, match="odd: the mask has 6 x 5 pixels, its photograph 6 x 7"):
        tagseg.export_masks(masks, "coco", out, images=tmp_path / "odd.jpg", quiet=True)
    write_mask(masks / "odd.png", np.full((7, 6), 3, dtype=np.uint8))
    with pytest.raises(tagseg.BadInput, match="odd: the mask holds the value 3, but there are 1 classes"):
        tagseg.export_masks(masks, "coco", out, images=tmp_path / "odd.jpg", quiet=True)
    with pytest.raises(tagseg.BadInput, match="split 'test' does not exist"):
        tagseg.export_masks(tiny_run.folder, "coco", out, splits=("test",))
    with pytest.raises(tagseg.BadInput, match="did you mean 'coco'"):
        tagseg.export_masks(tiny_run.folder, "cocoo", out)
    assert not list(tmp_path.glob("out*"))


def test_a_run_whose_data_has_moved(tiny_set: Path, tiny_run: Any, tmp_path: Path):
    run = tmp_path / "run"
    shutil.copytree(tiny_run.folder, run)
    marker = read_json(run / "run.json")
    (run / "run.json").write_text(str({**marker, "data": "/gone"}).replace("'", '"'))
    with pytest.raises(tagseg.BadInput, match="/gone: the data set of this run is no longer there"):
        tagseg.export_masks(run, "coco", tmp_path / "out")
    found = tagseg.export_masks(run, "coco", tmp_path / "out", images=tiny_set / "images", quiet=True)
    assert found.photographs == len(masks_of(run))


def test_classes_of_other_names_are_told(tiny_run: Any, tmp_path: Path):
    one = tagseg.export_masks(tiny_run.folder, "cvat", tmp_path / "one", quiet=True).path
    text = one.read_text()
    name = read_masks(one).classes[0]
    two = tmp_path / "two.xml"
    two.write_text(text.replace(f">{name}<", ">strange<").replace(f'"{name}"', '"strange"'))
    with pytest.raises(tagseg.BadInput, match="'strange' is no class here"):
        tagseg.evaluate(two, one)


def test_the_numbers_that_are_wanted(tiny_run: Any, tiny_set: Path, tmp_path: Path):
    """Label Studio's own export has names and no order; the run's order is asked for."""
    tasks = tagseg.export_masks(tiny_run.folder, "labelstudio", tmp_path / "tasks", quiet=True).path
    (tmp_path / "tasks" / "config.xml").unlink()
    known = read_json(tiny_run.folder / "segment" / "model.json")["classes"]
    assert read_masks(tasks).classes != tuple(known)
    back = tagseg.export_masks(
        tasks, "png", tmp_path / "back", images=tiny_set / "images", classes=tiny_run.folder, quiet=True
    )
    read = read_masks(back.path)
    assert read.classes == tuple(known)
    for name, mask in masks_of(tiny_run.folder).items():
        np.testing.assert_array_equal(read.masks[name](), mask)


def test_what_lies_beside_is_left_alone(tiny_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "mine").write_text("mine")
    tagseg.export_masks(tiny_run.folder, "png", tmp_path / "out", quiet=True)
    assert (tmp_path / "out.partial" / "mine").read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "out.partial"]
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert tagseg.export_masks(tiny_run.folder, "png", ".", quiet=True).photographs == 10
    assert (tmp_path / "here" / "classes.txt").is_file()


def test_masks_that_are_not_finished(tiny_run: Any, tmp_path: Path):
    run = Path(shutil.copytree(tiny_run.folder, tmp_path / "run"))
    (run / "relabel").mkdir()  # left over from settings of before
    write_mask(run / "relabel" / "odd.png", np.ones((3, 3), dtype=np.uint8))
    assert tagseg.export_masks(run, "png", tmp_path / "out", quiet=True).photographs == 10
    stage = read_json(run / "masks" / "stage.json")
    write_json(run / "masks" / "stage.json", {**stage, "finished": False})
    with pytest.raises(tagseg.BadInput, match="no pseudo-masks yet"):
        tagseg.export_masks(run, "png", tmp_path / "other", quiet=True)


def test_a_run_without_evaluation_photographs(tiny_run: Any, tmp_path: Path):
    run = Path(shutil.copytree(tiny_run.folder, tmp_path / "run"))
    shutil.rmtree(run / "report" / "predictions")
    shutil.copytree(run / "masks", run / "report" / "predictions")
    for splits in (("train", "val"), ("val",)):
        with pytest.raises(tagseg.BadInput, match="no evaluation photographs"):
            tagseg.export_masks(run, "yolo", tmp_path / "out", splits=splits, quiet=True)


def test_each_side_by_its_own_names(tmp_path: Path):
    for side, order in (("pred", "cat\ndog\n"), ("truth/masks", "dog\ncat\n")):
        mask = (
            np.array([[0, 1], [2, 0]], dtype=np.uint8) if side == "pred" else np.array([[0, 2], [1, 0]], dtype=np.uint8)
        )
        write_mask(tmp_path / side / "a.png", mask)
        (tmp_path / side / "classes.txt" if side == "pred" else tmp_path / "truth/classes.txt").write_text(order)
    assert tagseg.evaluate(tmp_path / "pred", tmp_path / "truth" / "masks").miou == 100
    given = tagseg.evaluate(tmp_path / "pred", tmp_path / "truth" / "masks", classes=["cat", "dog"])
    assert given.miou < 50  # by number, as told


def test_predictions_do_not_join_those_of_other_classes(tiny_run: Any, tiny_set: Path, tmp_path: Path):
    (tmp_path / "classes.txt").write_text("something else\n")
    with pytest.raises(tagseg.BadInput, match="the classes in this folder are others"):
        tagseg.predict(tiny_run.folder, [tiny_set / "images"], tmp_path, quiet=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["classes.txt"]
