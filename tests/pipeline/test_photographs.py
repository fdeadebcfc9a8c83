"""The photographs of a run: masks to measure with that lie elsewhere, in any format."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import tagseg
from tagseg.cli import app
from tagseg.data.dataset import read_mask
from tagseg.data.reading import FileFacts, inspect_files, read_dataset
from tagseg.export.mask_formats import mask_formats
from tagseg.files import read_json, write_json
from tagseg.pipeline.photographs import measured_by, photographs_again
from tests.conftest import TINY


@pytest.fixture(scope="module")
def bare(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny set without its masks."""
    folder = Path(shutil.copytree(tiny_set, tmp_path_factory.mktemp("bare") / "data"))
    shutil.rmtree(folder / "masks")
    return folder


def written(tiny_set: Path, kind: str, out: Path) -> Path:
    found = tagseg.export_masks(
        tiny_set / "masks", kind, out, images=tiny_set / "images", classes=tiny_set / "classes.txt", quiet=True
    )
    return found.path


@pytest.mark.parametrize("kind", mask_formats())
def test_truth_of_every_format(kind: str, bare: Path, tiny_set: Path, tmp_path: Path):
    found = measured_by(read_dataset(bare), written(tiny_set, kind, tmp_path / "out"))
    for sample, right in zip(found.samples, read_dataset(tiny_set).samples, strict=True):
        assert sample.mask is not None
        assert right.mask is not None
        np.testing.assert_array_equal(read_mask(sample.mask), read_mask(right.mask))


def test_a_run_is_measured_by_masks_that_lie_elsewhere(bare: Path, tiny_set: Path, tiny_run: Any, tmp_path: Path):
    coco, run = written(tiny_set, "coco", tmp_path / "coco"), tmp_path / "run"
    words = [word for key, value in TINY.items() for word in ("--set", f"{key}={value}".replace(" ", ""))]
    how = ["fit", str(bare), "--out", str(run), "--method", "cam", *words, "--masks", str(coco)]
    CliRunner().invoke(app, how, catch_exceptions=False)
    assert read_json(run / "metrics.json") == read_json(tiny_run.folder / "metrics.json")
    assert all(sample.mask is not None for sample in photographs_again(run, "").samples)
    assert tagseg.report_on(run, run, tmp_path / "two.html").is_file()
    # other masks in the same file: measured again, and nothing else is done again
    file = next((tmp_path / "coco").rglob("*.json"))
    said = read_json(file)
    write_json(file, {**said, "annotations": said["annotations"][:1]})
    told = CliRunner().invoke(app, how, catch_exceptions=False).stdout
    assert [line.split(":")[0] for line in told.splitlines() if "done again" in line] == ["premise", "report"]
    assert read_json(run / "metrics.json") != read_json(tiny_run.folder / "metrics.json")


@pytest.mark.parametrize(
    ("kind", "pattern"), [("yolo", "labels/train/*.txt"), ("png", "classes.txt"), ("voc", "*/labelmap.txt")]
)
def test_whatever_masks_are_drawn_from_tells_that_they_changed(
    kind: str, pattern: str, bare: Path, tiny_set: Path, tmp_path: Path
):
    masks = written(tiny_set, kind, tmp_path / "out")
    data = measured_by(read_dataset(bare), masks)
    before = inspect_files(data, FileFacts())[1].stamps_digest(data.samples)
    root = masks if masks.is_dir() else masks.parent
    changed = next(iter(sorted(root.glob(pattern)) or sorted(root.rglob(Path(pattern).name))))
    changed.write_text(changed.read_text() + "\n")
    after = measured_by(read_dataset(bare), masks)
    assert inspect_files(after, FileFacts())[1].stamps_digest(after.samples) != before


def test_where_tags_come_from_is_remembered(tiny_set: Path, tmp_path: Path):
    voc = tagseg.export_masks(
        tiny_set / "masks",
        "voc",
        tmp_path / "voc",
        images=tiny_set / "images",
        classes=tiny_set / "classes.txt",
        quiet=True,
    ).path
    run = tmp_path / "run"
    run.mkdir()
    write_json(run / "run.json", {"data": str(voc), "tags": "masks"})
    assert [s.tags for s in photographs_again(run, "").train] == [s.tags for s in read_dataset(voc, "masks").train]


def test_masks_that_are_of_nothing_here(bare: Path, tiny_set: Path, tmp_path: Path):
    data = read_dataset(bare)
    with pytest.raises(tagseg.BadInput, match="there are no such masks"):
        measured_by(data, tmp_path / "nowhere")
    few = tmp_path / "few"
    few.mkdir()
    name = data.samples[0].name
    shutil.copy(tiny_set / "masks" / f"{name}.png", few / f"{name}.png")
    shutil.copy(tiny_set / "masks" / f"{name}.png", few / "strange.png")
    found = measured_by(data, few)
    assert [note.partition(": ")[2] for note in found.notes[len(data.notes) :]] == [
        "13 photographs have no mask there and are not measured.",
        "1 masks have the name of no photograph and are left out.",
    ]
    (few / f"{name}.png").unlink()
    with pytest.raises(
        tagseg.BadInput, match=f"no mask has the name of a photograph; there is 'strange', and no '{name}'"
    ):
        measured_by(data, few)
    with pytest.raises(tagseg.BadInput, match="is no class here"):
        measured_by(replace(data, classes=("apple",)), written(tiny_set, "coco", tmp_path / "coco"))
