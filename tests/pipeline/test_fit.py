import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tagseg
from tagseg.data.dataset import read_mask
from tagseg.data.images import read_index_png
from tagseg.data.map_store import MapStore
from tagseg.data.reading import read_dataset
from tagseg.errors import BadInput
from tagseg.evaluation.iou import Confusion
from tagseg.methods.cam import CAM
from tagseg.pipeline.records import Metrics
from tests.conftest import TINY, interrupted_in
from tests.data.trees import folder


def test_a_run_leaves_what_it_promises(tiny_set: Path, tiny_run: Any):
    data = read_dataset(tiny_set)
    run = tiny_run.folder
    for sample in data.train:
        mask = read_index_png(run / "masks" / f"{sample.name}.png")
        assert mask.shape == read_mask(sample.mask).shape
        assert set(np.unique(mask).tolist()) <= {0, *(t + 1 for t in sample.tags)}
    assert len(MapStore(run / "mine")) == len(data.train)
    assert sorted(p.name for p in (run / "segment").iterdir()) == [
        "MODEL.md",
        "log.csv",
        "model.json",
        "model.safetensors",
        "stage.json",
    ]
    assert json.loads((run / "metrics.json").read_text()) == tiny_run.metrics.present()
    model = tagseg.load(run)
    assert model.classes == data.classes
    np.testing.assert_array_equal(
        model.predict(data.val[0].image), read_index_png(run / "report/predictions" / f"{data.val[0].name}.png")
    )


def test_the_numbers_are_those_of_the_files(tiny_set: Path, tiny_run: Any):
    data = read_dataset(tiny_set)
    for samples, place, part in (
        (data.train, "masks", tiny_run.metrics.train.pseudo_masks),
        (data.val, "report/predictions", tiny_run.metrics.val.segmentation),
    ):
        confusion = Confusion(len(data.classes))
        for sample in samples:
            confusion.add(read_index_png(tiny_run.folder / place / f"{sample.name}.png"), read_mask(sample.mask))
        assert part == confusion.scores().table(data.classes)
    train = tiny_run.metrics.train
    assert train.oracle.miou >= train.seeds.miou - 1e-9 or abs(train.oracle.miou - train.seeds.miou) < 1


def test_the_report_stands_alone(tiny_run: Any):
    page = tiny_run.report.read_text()
    assert "data:image/jpeg;base64," in page
    assert "<svg" in page
    assert 'src="http' not in page
    assert "<script" not in page
    for words in ("pseudo-mask", "prediction", "truth", "Otsu", "oracle", "test_resnet", "torch"):
        assert words in page


@pytest.fixture
def own_run(tiny_run: Any, tmp_path: Path) -> Path:
    """A copy of the finished run, to be changed."""
    shutil.copytree(tiny_run.folder, tmp_path / "run")
    return tmp_path / "run"


def test_the_same_again_changes_nothing(tiny_set: Path, own_run: Path, capsys: pytest.CaptureFixture[str]):
    before = {p: p.stat().st_mtime_ns for p in own_run.rglob("*.png")}
    tagseg.fit(tiny_set, own_run, recipe="cam", settings=TINY)
    said = capsys.readouterr().out
    assert before == {p: p.stat().st_mtime_ns for p in own_run.rglob("*.png")}
    for stage in ("train", "mine", "masks", "segment", "report"):
        assert f"{stage}: already done, kept" in said


def test_a_changed_setting_redoes_what_depends_on_it(tiny_set: Path, own_run: Path, capsys: pytest.CaptureFixture[str]):
    tagseg.fit(tiny_set, own_run, recipe="cam", settings={**TINY, "masks.background": 0.9})
    said = capsys.readouterr().out
    assert "mine: already done, kept" in said
    assert "masks: done again, because settings.background was 'auto' and is now 0.9" in said
    assert "segment: done again, because the stage 'masks' before it changed" in said


def test_another_test_protocol_trains_nothing(tiny_set: Path, own_run: Path, capsys: pytest.CaptureFixture[str]):
    before = (own_run / "segment/model.safetensors").stat().st_mtime_ns
    settings = {**TINY, "predict.flip": True, "predict.scales": [1.0, 1.5], "predict.fuse": "max"}
    found = tagseg.fit(tiny_set, own_run, recipe="cam", settings=settings)
    said = capsys.readouterr().out
    assert "segment: already done, kept" in said
    assert "report: done again, because the stage 'segment' before it changed" in said
    assert (own_run / "segment/model.safetensors").stat().st_mtime_ns == before
    assert found.metrics.val.protocol is not None
    assert "test protocol" in found.metrics.score_tables()
    model, sample = tagseg.load(own_run), read_dataset(tiny_set).val[0]
    assert (model.protocol.flip, model.protocol.scales) == (True, (1.0, 1.5))
    kept = own_run / "report/predictions" / f"{sample.name}.png"
    np.testing.assert_array_equal(model.predict(sample.image), read_index_png(kept))
    (written,) = tagseg.predict(own_run, [sample.image], own_run.parent / "masks", quiet=True)
    np.testing.assert_array_equal(read_index_png(written), read_index_png(kept))
    tagseg.fit(tiny_set, own_run, recipe="cam", settings=settings)
    assert "report: already done, kept" in capsys.readouterr().out
    again = tagseg.fit(tiny_set, own_run, recipe="cam", settings=TINY, quiet=True)
    assert again.metrics.val.protocol is None
    assert again.metrics.val.segmentation == found.metrics.val.segmentation


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"backbone": "test_resnext"}, "did you mean 'test_resnet'"),
        ({"weights": "nowhere.safetensors"}, "no such weights file"),
        ({"train.output_stride": 3}, "output_stride=3"),
        ({"train.epoch": 1}, "did you mean 'epochs'"),
    ],
)
def test_a_slip_in_the_settings_costs_nothing(tiny_set: Path, own_run: Path, settings: dict[str, Any], words: str):
    before = {p: p.stat().st_mtime_ns for p in own_run.rglob("*.*")}
    with pytest.raises(tagseg.BadInput, match=words):
        tagseg.fit(tiny_set, own_run, recipe="cam", settings={**TINY, **settings}, quiet=True)
    assert before == {p: p.stat().st_mtime_ns for p in own_run.rglob("*.*")}


def test_bad_photographs_stop_it_or_are_skipped_and_listed(tmp_path: Path):
    root = folder(tmp_path / "data", "a,cat\nb,dog\nc,\nd,cat\n", ("a.jpg", "b.jpg", "c.jpg", "d.jpg"))
    (root / "images/d.jpg").write_bytes(b"no photograph")
    with pytest.raises(tagseg.BadInput, match=r"d\.jpg: this is not an image"):
        tagseg.fit(root, tmp_path / "run", recipe="cam", settings=TINY, quiet=True)
    assert not (tmp_path / "run").exists()
    result = tagseg.fit(root, tmp_path / "run", recipe="cam", settings=TINY, skip_bad=True, quiet=True)
    assert sorted(p.stem for p in (tmp_path / "run/masks").glob("*.png")) == ["a", "b", "c"]
    assert "d.jpg: this is not an image" in result.report.read_text()
    assert result.metrics == Metrics()  # no masks, nothing measured
    assert read_index_png(tmp_path / "run/masks/c.png").max() == 0  # no tags: background only


def test_the_keyboard_stops_it_and_it_goes_on(tiny_set: Path, tiny_run: Any, tmp_path: Path):
    handler = signal.getsignal(signal.SIGINT)
    with interrupted_in(CAM, epoch=1):
        tagseg.fit(tiny_set, tmp_path / "run", recipe="cam", settings=TINY, quiet=True)
    assert signal.getsignal(signal.SIGINT) is handler
    assert not (tmp_path / "run/train/classifier.safetensors").exists()
    tagseg.fit(tiny_set, tmp_path / "run", recipe="cam", settings=TINY, quiet=True)
    model = "segment/model.safetensors"
    assert (tiny_run.folder / model).read_bytes() == (tmp_path / "run" / model).read_bytes()


def test_two_pixels_short_of_a_row_are_not_lost(tmp_path: Path):
    root = tmp_path / "data"
    for name, size in (("wide", (17, 203)), ("tall", (151, 19)), ("dot", (8, 8))):
        (root / "images").mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(noise).save(root / "images" / f"{name}.png")
    (root / "labels.csv").write_text("wide,x\ntall,x\ndot,x\n")
    tagseg.fit(root, tmp_path / "run", recipe="cam", settings=TINY, quiet=True)
    for name, size in (("wide", (17, 203)), ("tall", (151, 19)), ("dot", (8, 8))):
        assert read_index_png(tmp_path / "run/masks" / f"{name}.png").shape == size


def test_pixel_masks_touch_nothing_but_the_numbers(tiny_set: Path, tiny_run: Any, tmp_path: Path):
    blind = tmp_path / "blind"
    shutil.copytree(tiny_set, blind)
    shutil.rmtree(blind / "masks")
    result = tagseg.fit(blind, tmp_path / "run", recipe="cam", settings=TINY, quiet=True)
    for path in (tiny_run.folder / "masks").glob("*.png"):
        assert path.read_bytes() == (tmp_path / "run/masks" / path.name).read_bytes()
    model = "segment/model.safetensors"
    assert (tiny_run.folder / model).read_bytes() == (tmp_path / "run" / model).read_bytes()
    assert set(result.metrics.val.present()) == {"tags_map"}


def test_the_segmentation_network_may_be_another(tiny_set: Path, tmp_path: Path):
    settings = {**TINY, "segment.backbone": "test_vit", "segment.output_stride": None, "segment.side": 48}
    with pytest.raises(BadInput, match=r"segment\.backbone 'test_vit': it cannot start from the classifier's weights"):
        tagseg.fit(tiny_set, tmp_path / "run", recipe="cam", settings=settings, quiet=True)
    assert not (tmp_path / "run").exists()
    settings |= {"segment.start": "weights", "segment.weights": "random", "segment.epochs": 1}
    result = tagseg.fit(tiny_set, tmp_path / "run", recipe="cam", settings=settings, quiet=True)
    assert tagseg.load(result.folder).network.backbone.name == "test_vit"


def test_settings_that_have_no_effect_train_nothing_again(
    tiny_set: Path, own_run: Path, capsys: pytest.CaptureFixture[str]
):
    """So that a run of an older version, which did not know them, stays as it is."""
    for idle in ({"segment.clip_side": 60}, {"segment.beco": {"mixing": 0.1}}, {"segment.decoder": {"width": 8}}):
        tagseg.fit(tiny_set, own_run, recipe="cam", settings={**TINY, **idle})
        assert "segment: already done, kept" in capsys.readouterr().out
    tagseg.fit(tiny_set, own_run, recipe="cam", settings={**TINY, "segment.clip_from": 50.0})
    assert "segment: done again, because settings.clip_from" in capsys.readouterr().out
