"""Whether what a method builds on is there."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import tagseg
from tagseg.data.dataset import read_mask
from tagseg.data.map_store import MapStore
from tagseg.data.reading import read_dataset
from tagseg.evaluation.coverage import Coverage
from tagseg.files import read_json
from tagseg.methods.cam import CAM
from tagseg.methods.l2g import L2G, L2GSettings
from tagseg.methods.oaa import OAA
from tagseg.methods.saved import load_saved
from tagseg.methods.table import method_names
from tagseg.pipeline import premise, starting
from tagseg.pipeline.premise import read_premise, sentences, starts_elsewhere
from tagseg.pipeline.records import PremiseRecord
from tagseg.pipeline.starting import KeepStart, looked_at
from tests.conftest import TINY, names
from tests.methods.any_method import built


@pytest.mark.parametrize(
    ("kind", "found", "words"),
    [
        (OAA, {"recall": 30.0, "noise": 35.0, "tags_map": 95.0, "rate": 0.6, "trusted": 0.9}, []),
        (OAA, {"recall": 71.0, "noise": 35.0}, ["cover 71 % of the objects already"]),
        (OAA, {"recall": 30.0, "noise": 60.0}, ["are small enough; 60 %"]),
        (CAM, {"recall": 71.0, "noise": 60.0}, []),  # it makes nothing larger
        (CAM, {"tags_map": 44.0}, ["only 44 %"]),
        (OAA, {"rate": 0.23, "trusted": 0.3}, ["0.23 of its start", "Only 30 %"]),
        (CAM, {"saturated": 0.997}, ["100 % of the affinities"]),
        (CAM, {"disagreement": 1.47}, ["1.47 times"]),
        (
            CAM,
            {"disagreement": 1.47, "kept_epoch": 6},
            ["it was ended; its maps are those of the network after epoch 6"],
        ),
        (CAM, {"disagreement": 0.58}, []),
        (CAM, {"unlearnt": 88.0}, ["88 % of the objects lie where it teaches"]),
        (CAM, {"unlearnt": 12.0}, []),
        (L2G, {"tags_map": 95.0, "maps_tags_map": 44.0}, ["The network of the class maps finds only 44 %"]),
        (OAA, {}, []),
    ],
)
def test_what_is_amiss_is_said(kind: Any, found: dict[str, float], words: list[str]):
    said = sentences("it", PremiseRecord(**found, sentences=[]), kind)
    assert len(said) == len(words)
    assert all(word in sentence for word, sentence in zip(words, said, strict=True))


def test_a_run_is_told_its_premise(tiny_run: Any):
    found = read_premise(tiny_run.folder)
    assert found.recall is not None
    assert found.tags_map is not None
    assert 0 < found.covered <= 100
    assert found.rate == pytest.approx(0.5, abs=0.15)  # poly decay, the mean over steps
    epochs = read_json(tiny_run.folder / "train" / "stage.json")["values"]["epochs"]
    assert [epoch["rate"] for epoch in epochs] == pytest.approx([0.75, 0.25], abs=0.2)
    page = (tiny_run.folder / "report.html").read_text()
    assert all(sentence.split("%")[0] in page for sentence in found.sentences)


def test_terms_are_kept(tiny_set: Path, tmp_path: Path):
    run = tagseg.fit(tiny_set, tmp_path / "run", recipe="oaa", settings=TINY, until="premise", quiet=True).folder
    assert read_premise(run).trusted is not None
    assert read_premise(run).recall is not None  # of the network's own maps, though the run's are cumulative


def test_what_a_warm_up_led_to_is_kept(tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """KTSE starts from the classifier that it was when its warm-up was over; looking at it changes nothing."""
    settings = {**TINY, "train.warmup": 0.5}
    told = tagseg.fit(tiny_set, tmp_path / "told", recipe="ktse", settings=settings, until="premise", quiet=True).folder
    found, start = read_premise(told), MapStore(told / "start")
    data = read_dataset(tiny_set)
    assert set(start) == {sample.name for sample in looked_at(data.train)}
    coverage = Coverage(len(data.classes))
    for sample in looked_at(data.train):
        truth = read_mask(sample.mask)
        coverage.add(start.read(sample.name).at(truth.shape), sample.tags, truth)
    assert found.recall == coverage.table(data.classes).recall
    monkeypatch.setattr(KeepStart, "on_train_epoch_start", lambda *_: None)
    quiet = tagseg.fit(
        tiny_set, tmp_path / "quiet", recipe="ktse", settings=settings, until="premise", quiet=True
    ).folder
    weights = [load_file(run / "train" / "classifier.safetensors") for run in (told, quiet)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert read_premise(quiet).recall is None  # as of an older run, which kept nothing


def test_a_start_that_cannot_be_kept_fails_nothing(
    tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def broken(*_: Any) -> None:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(starting, "look", broken)
    with caplog.at_level("WARNING", logger="tagseg"):
        run = tagseg.fit(tiny_set, tmp_path / "run", recipe="aeft", settings=TINY, until="premise", quiet=True).folder
    assert "could not be kept (out of luck)" in caplog.text
    assert read_premise(run).recall is None
    assert read_premise(run).sentences[-1].startswith("What the method starts from was not kept")


def test_what_was_kept_is_no_part_of_the_training(tiny_set: Path, tmp_path: Path):
    """A run without it trains nothing again, and one that was trained until its end by its warm-up needs none."""
    settings = {**TINY, "train.frozen": True, "train.erasing": "none", "train.alignment": "none"}
    run = tmp_path / "run"
    tagseg.fit(tiny_set, run, recipe="ktse", settings=settings, until="premise", quiet=True)
    assert read_premise(run).recall is not None
    before = (run / "train" / "classifier.safetensors").stat().st_mtime_ns
    shutil.rmtree(run / "start")
    shutil.rmtree(run / "premise")
    tagseg.fit(tiny_set, run, recipe="ktse", settings=settings, until="premise", quiet=True)
    assert (run / "train" / "classifier.safetensors").stat().st_mtime_ns == before
    assert read_premise(run).recall is None
    warm = {**settings, "train.warmup": 1.0}
    whole = tagseg.fit(tiny_set, tmp_path / "warm", recipe="ktse", settings=warm, until="premise", quiet=True).folder
    assert read_premise(whole).recall is not None


def test_what_is_unlearnt_is_told(tiny_set: Path, tmp_path: Path):
    """SeeNet learns that no class is where its second map is low, and nearly all of an object may lie there."""
    settings = {**TINY, "train.background": "halfway", "train.low": 0.0, "train.high": 1.0}
    run = tagseg.fit(tiny_set, tmp_path / "run", recipe="seenet", settings=settings, until="premise", quiet=True)
    found = read_premise(run.folder)
    assert 50 < found.unlearnt <= 100
    assert any("of the objects lie where seenet teaches that no class is" in sentence for sentence in found.sentences)


def test_what_cannot_be_checked_fails_nothing(tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def broken(*_: Any) -> None:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(premise, "_mined", broken)
    run = tagseg.fit(tiny_set, tmp_path / "run", recipe="cam", settings=TINY, until="premise", quiet=True).folder
    assert read_premise(run).sentences == ["The premise of the method could not be checked (out of luck)."]


def test_l2g_starts_from_its_local_network():
    network = L2G("test_resnet", "random", names(3), L2GSettings(side=49), 10).eval()
    images = torch.randn(1, 3, 49, 65)
    maps, _ = network.starting_maps(images)
    torch.testing.assert_close(maps, network.local_head(network.local_backbone, images))


@pytest.mark.parametrize("name", method_names())
def test_every_method_says_what_it_starts_from(name: str):
    network = built(name, names(3))
    with torch.no_grad():
        maps, logits = network.eval().starting_maps(torch.randn(2, 3, 64, 64))
    assert maps.shape[:2] == logits.shape == (2, 3)
    assert maps.isfinite().all()
    assert logits.isfinite().all()


def test_a_second_classifier_starts_from_the_first(tiny_set: Path, tmp_path: Path):
    run = tagseg.fit(tiny_set, tmp_path / "run", recipe="acol", settings=TINY, until="premise", quiet=True)
    found = read_premise(run.folder)
    network = load_saved(run.folder / "train").cpu()
    images = torch.randn(1, 3, 65, 65)
    first, _ = network.branches(images)
    torch.testing.assert_close(network.starting_maps(images)[0], first)
    assert found.recall is not None
    assert starts_elsewhere(type(network))
