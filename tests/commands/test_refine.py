from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import tagseg
from tagseg.cli import app
from tagseg.data.images import read_index_png, write_grey, write_mask
from tagseg.data.map_store import MapStore
from tagseg.data.reading import read_dataset
from tagseg.errors import BadInput
from tests.conftest import TINY

LEARNT = {
    f"masks.{name}.{key}": value
    for name in ("irn", "psa")
    for key, value in {"side": 97, "walk_side": 97, "epochs": 1, "batch_size": 4}.items()
}


@pytest.mark.parametrize("refine", ["none", "pamr", "crf", "superpixels+crf", "irn+crf", "psa"])
def test_fit_refines(refine: str, tiny_set: Path, tiny_run: Any, tmp_path: Path):
    settings = {**TINY, **LEARNT, "masks.refine": refine}
    result = tagseg.fit(tiny_set, tmp_path / "run", recipe="cam", settings=settings, until="masks", quiet=True)
    masks = sorted((result.folder / "masks").rglob("*.png"))
    assert len(masks) == 10
    assert (result.folder / "affinity").exists() == (refine.split("+")[0] in ("irn", "psa"))
    if (result.folder / "affinity").exists():
        assert len(MapStore(result.folder / "affinity" / "maps")) == 10
        again = tagseg.fit(tiny_set, tmp_path / "run", recipe="cam", settings=settings, until="masks", quiet=True)
        assert [m.read_bytes() for m in masks] == [
            m.read_bytes() for m in sorted((again.folder / "masks").rglob("*.png"))
        ]


def test_another_refinement_keeps_the_classifier(tiny_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for refine in ("par", "crf"):
        settings = {**TINY, "masks.refine": refine}
        tagseg.fit(tiny_set, tmp_path / "run", recipe="cam", settings=settings, until="masks")
    said = capsys.readouterr().out
    assert "mine: already done" in said
    assert "masks: done again, because refine was 'par' and is now 'crf'" in said


def test_a_walk_that_was_interrupted_goes_on(tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from tagseg.methods.refinements.irn import IRN

    settings = {**TINY, **LEARNT, "masks.refine": "irn"}
    whole = tagseg.fit(tiny_set, tmp_path / "whole", recipe="cam", settings=settings, until="masks", quiet=True)
    walk, calls = IRN.walk, []

    def break_off(self: IRN, *arguments: Any) -> np.ndarray:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return walk(self, *arguments)

    monkeypatch.setattr(IRN, "walk", break_off)
    with pytest.raises(KeyboardInterrupt):
        tagseg.fit(tiny_set, tmp_path / "broken", recipe="cam", settings=settings, until="masks", quiet=True)
    monkeypatch.setattr(IRN, "walk", walk)
    broken = tagseg.fit(tiny_set, tmp_path / "broken", recipe="cam", settings=settings, until="masks", quiet=True)
    for mask in (whole.folder / "masks").rglob("*.png"):
        other = broken.folder / "masks" / mask.relative_to(whole.folder / "masks")
        np.testing.assert_array_equal(read_index_png(mask), read_index_png(other))


def test_saliency_scores_the_background(tiny_set: Path, tmp_path: Path):
    settings = {**TINY, "masks.refine": "none", "masks.saliency": True}
    result = tagseg.fit(tiny_set, tmp_path / "run", recipe="cam", settings=settings, until="masks", quiet=True)
    assert len(list((result.folder / "saliency").rglob("*.png"))) == 10
    with pytest.raises(BadInput, match=r"no saliency map of it \(9 more are missing\)"):
        tagseg.fit(
            tiny_set, tmp_path / "other", recipe="cam", settings={**settings, "data.saliency": "folder"}, quiet=True
        )
    with pytest.raises(BadInput, match="is no file, no folder and no word; did you mean 'built-in'"):
        tagseg.fit(
            tiny_set, tmp_path / "third", recipe="cam", settings={**settings, "data.saliency": "buildin"}, quiet=True
        )


def test_saliency_from_another_folder(tiny_set: Path, tmp_path: Path):
    """By the command's `--saliency`; a map that is missing there is named before anything is trained."""
    maps = tmp_path / "maps"
    maps.mkdir()
    names = [sample.name for sample in read_dataset(tiny_set).train]
    for name in names:
        size = Image.open(tiny_set / "images" / f"{name}.png").size
        Image.fromarray(np.full(size[::-1], 255, dtype=np.uint8)).save(maps / f"{name}.png")
    sets = [part for key, value in TINY.items() for part in ("--set", f"{key}={value}")]
    command = [
        "fit",
        str(tiny_set),
        "--out",
        str(tmp_path / "run"),
        "--method",
        "cam",
        "--saliency",
        str(maps),
        "--until",
        "masks",
        *sets,
    ]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert not list((tmp_path / "run" / "saliency").glob("*.png"))  # all came from there
    (maps / f"{names[3]}.png").unlink()
    with pytest.raises(BadInput, match=rf"no saliency map {names[3]}.png \(0 more are missing\)"):
        tagseg.fit(
            tiny_set,
            tmp_path / "other",
            recipe="cam",
            settings={**TINY, "masks.saliency": True, "data.saliency": str(maps)},
            quiet=True,
        )


def test_eps_learns_from_saliency(tiny_set: Path, tmp_path: Path):
    result = tagseg.fit(tiny_set, tmp_path / "run", recipe="eps", settings=TINY, until="mine", quiet=True)
    assert len(list((result.folder / "saliency").rglob("*.png"))) == 10
    assert len(MapStore(result.folder / "mine")) == 10


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("masks.refine", "crv", "cannot be 'crv': there is no refinement 'crv'; did you mean 'crf'"),
        ("masks.refine", "par+irn", "'irn' must come first"),
        ("masks.crf", "deeplap", "did you mean 'deeplab'"),
        ("masks.irn.side", 33, "too small for pairs within 6 cells"),
        ("masks.irn.epoch", 3, "did you mean 'epochs'|epochs"),
    ],
)
def test_wrong_settings_are_told(key: str, value: object, message: str, tiny_set: Path, tmp_path: Path):
    with pytest.raises(BadInput, match=message):
        tagseg.fit(
            tiny_set, tmp_path / "run", recipe="cam", settings={**TINY, "masks.refine": "irn", key: value}, quiet=True
        )
    assert not (tmp_path / "run").exists()


@pytest.fixture
def rough(tmp_path: Path) -> tuple[Path, Path]:
    """A photograph of two colours, and a mask whose border lies elsewhere."""
    photo = np.full((60, 80), 40, np.uint8)
    photo[:, 40:] = 200
    write_grey(tmp_path / "photos" / "one.png", photo)
    labels = np.zeros((60, 80), np.uint8)
    labels[:, 46:] = 7
    labels[:5, :5] = 255
    write_mask(tmp_path / "rough" / "one.png", labels)
    return tmp_path / "photos", tmp_path / "rough"


@pytest.mark.parametrize("how", ["crf", "crf+superpixels", "superpixels"])
def test_masks_of_any_origin(how: str, rough: tuple[Path, Path], tmp_path: Path):
    result = tagseg.refine(rough[0], rough[1], tmp_path / "out", refine=how, overlay=True, quiet=True)
    mask = read_index_png(result.masks[0])
    assert set(np.unique(mask)) <= {0, 7}
    if how.startswith("crf"):
        assert (mask[:, 40:] == 7).all()
        assert (mask[:, :40] == 0).all()
    assert (tmp_path / "out" / "one.overlay.jpg").exists()
    assert result.per_second > 0


def test_scores_of_any_origin(rough: tuple[Path, Path], tmp_path: Path):
    scores = np.full((3, 60, 80), 0.1, np.float32)
    scores[0, :, :46], scores[2, :, 46:] = 0.8, 0.8
    np.save(rough[1] / "one.npy", scores)
    mask = read_index_png(tagseg.refine(rough[0], rough[1], tmp_path / "out", crf="psa", quiet=True).masks[0])
    assert (mask == np.where(np.arange(80) >= 40, 2, 0)).all()
    np.save(rough[1] / "one.npy", scores[:, :-1])
    with pytest.raises(BadInput, match=r"give \(L, 60, 80\)"):
        tagseg.refine(rough[0], rough[1], tmp_path / "out", quiet=True)


def test_wrong_calls_are_told(rough: tuple[Path, Path], tmp_path: Path):
    photos, masks = rough
    with pytest.raises(BadInput, match="no such folder"):
        tagseg.refine(photos, tmp_path / "nothing", tmp_path / "out", quiet=True)
    with pytest.raises(BadInput, match="learns from all photographs"):
        tagseg.refine(photos, masks, tmp_path / "out", refine="irn", quiet=True)
    write_mask(masks / "one.png", np.zeros((60, 81), np.uint8))
    with pytest.raises(BadInput, match="81 x 60 pixels"):
        tagseg.refine(photos, masks, tmp_path / "out", quiet=True)
    (masks / "one.png").unlink()
    with pytest.raises(BadInput, match=r"one\.png or \.npy"):
        tagseg.refine(photos, masks, tmp_path / "out", quiet=True)


def test_predictions_through_a_crf(tiny_run: Any, tiny_set: Path, tmp_path: Path):
    photos = sorted((tiny_set / "images").rglob("*"))[:2]
    assert len(tagseg.predict(tiny_run.folder, photos, tmp_path / "masks", crf="deeplab", quiet=True)) == 2
    with pytest.raises(BadInput, match="deeplab"):
        tagseg.predict(tiny_run.folder, photos, tmp_path / "masks", crf="deeplap", quiet=True)
