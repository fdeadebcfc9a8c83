import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import tagseg
from tagseg.data.accumulated_views import AccumulatedViews, Drop
from tagseg.data.accumulator import Accumulator
from tagseg.data.dataset import Sample
from tagseg.errors import BadInput
from tagseg.grid import Grid
from tagseg.methods.oaa import IntegralAttention, IntegralSettings
from tagseg.methods.oaa_losses import (
    constraint_loss,
    cross_entropy,
    enhancement_loss,
    hybrid_loss,
    trusted,
    winning,
)
from tagseg.methods.saved import load_networks, load_saved
from tagseg.methods.settings.oaa import METHODS, OAAPlusSettings
from tagseg.methods.table import load_method
from tagseg.pipeline.settings import resolve
from tests.conftest import TINY, names

VARIANTS = sorted(METHODS)


def built(name: str, **settings: Any) -> Any:
    kind: Any = load_method(name)
    return kind("test_resnet", "random", names(3), kind.Settings(side=49, **settings), 10)


# losses


def test_hybrid_loss_by_hand():
    """One class, two cells: p = 0.5 and 0, scores 0: half of log 2 for the one, log 2 for the other."""
    scores, accumulated = torch.zeros(1, 1, 1, 2), torch.tensor([[[[0.5, 0.0]]]])
    assert enhancement_loss(scores, accumulated).item() == pytest.approx(0.5 * math.log(2))
    assert constraint_loss(scores, accumulated).item() == pytest.approx(math.log(2))
    assert hybrid_loss(scores, accumulated).item() == pytest.approx(1.5 * math.log(2))
    assert hybrid_loss(scores, accumulated, compat="official").item() == pytest.approx(1.5 * math.log(2))
    assert cross_entropy(scores, accumulated).item() == pytest.approx(math.log(2))


def test_classes_count_alike_in_the_paper_and_cells_in_the_code():
    """Two classes, one with one positive cell in four and one with all four."""
    accumulated = torch.tensor([[[[1.0, 0, 0, 0]], [[1.0, 1, 1, 1]]]])
    scores = torch.tensor([[[[2.0, 0, 0, 0]], [[0.0, 0, 0, 0]]]])
    sure, half = math.log1p(math.exp(-2)), math.log(2)
    assert hybrid_loss(scores, accumulated).item() == pytest.approx(sure + half + half)
    assert hybrid_loss(scores, accumulated, compat="official").item() == pytest.approx((sure + 4 * half) / 5 + half)


@pytest.mark.parametrize("compat", ["paper", "official"])
@pytest.mark.parametrize("value", [0.0, 1.0, -1.0])
def test_empty_sets_cost_nothing(compat: Any, value: float):
    scores = torch.randn(2, 3, 4, 4, requires_grad=True)
    loss = hybrid_loss(scores, torch.full((2, 3, 4, 4), value), compat=compat)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(scores.grad).all()
    assert (value != -1) == bool(loss.item() > 0)  # what is not known costs nothing
    assert (value != -1) == bool(cross_entropy(scores, torch.full((2, 3, 4, 4), value)).item() > 0)


def test_the_threshold_moves_cells_from_one_set_to_the_other():
    scores, accumulated = torch.zeros(1, 1, 1, 2), torch.tensor([[[[1.0, 0.2]]]])
    assert constraint_loss(scores, accumulated).item() == 0
    assert constraint_loss(scores, accumulated, 0.3).item() == pytest.approx(math.log(2))


def test_extreme_scores_stay_finite():
    scores = torch.tensor([[[[100.0, -100.0]]]], requires_grad=True)
    for accumulated in (torch.tensor([[[[0.0, 1.0]]]]), torch.tensor([[[[1.0, 0.0]]]])):
        for compat in ("paper", "official"):
            loss = hybrid_loss(scores, accumulated, compat=compat)  # type: ignore[arg-type]
            loss.backward()
            assert torch.isfinite(loss)
            assert torch.isfinite(scores.grad).all()


def test_trusted_tags():
    logits = torch.tensor([[3.0, 2, 1, 0], [0.0, 1, 2, 3], [5.0, 4, 3, 2]])
    tags = torch.tensor([[1.0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]])
    assert trusted(logits, tags).tolist() == [[True, False, False, False], [False, False, False, True], [False] * 4]


# views


@pytest.fixture
def one_photograph(tmp_path: Path) -> Sample:
    image = np.random.default_rng(0).integers(0, 256, (49, 65, 3)).astype(np.uint8)
    Image.fromarray(image).save(tmp_path / "photo.png")
    return Sample("photo", tmp_path / "photo.png", (1,))


def views_of(sample: Sample, tmp_path: Path, method: str = "oaa++", **settings: Any) -> AccumulatedViews:
    network = built(method, scales=(1, 1.6), drop_rate=1.0, **settings)
    network.accumulated = network.accumulator(tmp_path / "accumulated", [sample], [(49, 65)])
    grid = network.accumulated.cells[0]
    network.accumulated.begin()
    raw = np.zeros(grid)
    raw[:, : grid[1] // 2] = 1  # the left half of the photograph was found
    side = (grid[1] - 1) * 16 + 1, (grid[0] - 1) * 16 + 1
    from tagseg.data.geometry import Window

    network.accumulated.add(0, 0, raw, Window((side[1], side[0]), (0, 0, *side), flipped=False))
    network.accumulated.finish(1)
    return network.training_views((sample,), 0)


def seen_by(views: Any, seed: int) -> Any:
    """The views with another seed."""
    views.spec = replace(views.spec, seed=seed)
    return views


def test_what_was_found_is_hidden(one_photograph: Sample, tmp_path: Path):
    views = views_of(one_photograph, tmp_path)
    plain = views_of(one_photograph, tmp_path, "oaa")
    np.testing.assert_array_equal(views[0, 0]["image"], plain[0, 0]["image"])  # nothing is known in the first round
    seen = 0
    for seed in range(12):
        views, plain = seen_by(views, seed), seen_by(plain, seed)
        view, item = plain.view(1, 0), views[1, 0]
        hidden = (item["image"] == 0).all(dim=0).numpy()
        kept = ~hidden
        np.testing.assert_array_equal(item["image"].numpy()[:, kept], plain[1, 0]["image"].numpy()[:, kept])
        x = np.arange(hidden.shape[1])
        x = (hidden.shape[1] - 1 - x if view.flipped else x) + view.box[0]
        inside = (x >= 0) & (x < view.size[1])
        left, right = x[inside] < view.size[1] * 0.35, x[inside] > view.size[1] * 0.65
        rows = np.arange(hidden.shape[0]) + view.box[1]
        rows = (rows >= 0) & (rows < view.size[0])
        seen += left.sum()
        assert hidden[rows][:, inside][:, left].all()
        assert not hidden[rows][:, inside][:, right].any()
    assert seen > 100


def test_features_are_dropped_where_pixels_would_be(one_photograph: Sample, tmp_path: Path):
    views = views_of(one_photograph, tmp_path, drop="features")
    assert views[0, 0]["keep"].all()
    kept = torch.stack([seen_by(views, seed)[1, 0]["keep"] for seed in range(20)])
    assert kept.shape[1:] == views.seen.cells
    assert 0.2 < kept.mean() < 0.9


def test_the_rate_says_how_often(one_photograph: Sample, tmp_path: Path):
    views = views_of(one_photograph, tmp_path, "oaa++")
    assert views.seen.drop == Drop("image", rate=1.0, threshold=0.6)
    views.seen.drop = Drop("image", rate=0.5, threshold=0.6)
    plain = views_of(one_photograph, tmp_path, "oaa")
    changed = []
    for seed in range(60):
        views, plain = seen_by(views, seed), seen_by(plain, seed)
        changed.append(not torch.equal(views[1, 0]["image"], plain[1, 0]["image"]))
    assert 0.25 < np.mean(changed) < 0.65


def test_targets_follow_the_view(one_photograph: Sample, tmp_path: Path):
    plain = views_of(one_photograph, tmp_path, "oaa")
    network = IntegralAttention("test_resnet", "random", names(3), IntegralSettings(side=49, scales=(1, 1.6)), 10)
    network.accumulated = plain.seen.accumulated
    views = network.training_views((one_photograph,), 0)
    for seed in range(6):
        views = seen_by(views, seed)
        view, item = views.view(1, 0), views[1, 0]["accumulated"]
        assert item.shape == (3, *views.seen.cells)
        assert not item[[0, 2]].any()
        columns = np.arange(item.shape[2]) * 16
        columns = (48 - columns if view.flipped else columns) + view.box[0]
        left = (columns >= 0) & (columns < 0.3 * view.size[1])
        assert (item[1].amax(dim=0).numpy()[left] > 0.99).all()


def test_a_tag_without_a_map_is_not_known(one_photograph: Sample, tmp_path: Path):
    network = built("oaa-localisation")
    network.accumulated = Accumulator(tmp_path / "none", [(1,)], [(4, 5)], Grid(16, corners=True))
    item = network.training_views((one_photograph,), 0)[0, 0]["accumulated"]
    assert (item[1] == -1).all()
    assert (item[[0, 2]] == 0).all()


# the networks


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("convolutions", [0, 3])
def test_networks(name: str, convolutions: int):
    network = built(name, convolutions=convolutions).eval()
    maps = network.class_maps(torch.randn(2, 3, 49, 65))
    assert maps.shape == (2, 3, 4, 5)
    assert network.tag_logits(maps).shape == (2, 3)


def test_published_network():
    """VGG-16 at stride 8, three convolutions of 512, rates 1, 2, 10 and 20, a tenth after two thirds."""
    from tagseg.pipeline.settings import resolve

    settings = resolve("voc/oaa")
    network = load_method("oaa")(settings.backbone, "random", names(20), settings.train, 300)
    assert network.backbone.stride == 8
    shapes = [tuple(layer.weight.shape) for layer in network.branch if hasattr(layer, "weight")]
    assert shapes == [(512, 512, 3, 3)] * 3 + [(20, 512, 1, 1)]
    assert network.branch[0].weight.std().item() == pytest.approx(0.01, rel=0.05)
    found = network.configure_optimizers()
    rates = [group["initial_lr"] for group in found["optimizer"].param_groups]
    np.testing.assert_allclose(rates, [1e-3, 2e-3, 1e-2, 2e-2])
    schedule = found["lr_scheduler"]["scheduler"].lr_lambdas[0]
    assert [schedule(step) for step in (0, 199, 200, 299)] == [1, 1, 0.1, 0.1]
    assert all(p.requires_grad for p in network.parameters())


# runs


def fitted(data: Path, out: Path, recipe: str, **settings: Any) -> Any:
    settings = {**TINY, "train.epochs": 3, **settings}
    return tagseg.fit(data, out, recipe=recipe, settings=settings, quiet=True)


def test_what_is_set_for_the_first_network_holds_for_the_second():
    """Unless it has a value of its own; and settings that were written down are read as they were."""
    train = resolve("oaa+", {"train.side": 161, "train.hold": 0.5, "train.integral.batch_size": 4}).train
    assert isinstance(train, OAAPlusSettings)
    assert train.integral is not None
    assert (train.integral.side, train.integral.hold, train.integral.batch_size) == (161, 0.5, 4)
    assert type(train).model_validate(train.model_dump(mode="json")) == train
    assert getattr(resolve("oaa", {"train.side": 161}).train, "integral", 0) is None
    apart = {"train.optimiser": "sgd-steps", "train.drops": [0.5], "train.integral.optimiser": "adamw"}
    second = getattr(resolve("oaa+", apart).train, "integral", None)
    assert (second.optimiser, second.drops) == ("adamw", None)
    with pytest.raises(BadInput, match=r"'train\.side' cannot be 3"):
        resolve("oaa+", {"train.side": 3})


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_runs_to_its_end(tiny_set: Path, tmp_path: Path, name: str):
    extra: dict[str, Any] = {}
    if name in ("oaa+", "oaa+++"):
        extra = {"train.integral.epochs": 2, "train.integral.batch_size": 4, "train.integral.side": 49}
    result = fitted(tiny_set, tmp_path / "run", name, seed=1, **extra)
    rounds = result.metrics.train.accumulated
    assert [r.round for r in rounds] == [1, 2, 3]
    recalls = [r.recall or 0 for r in rounds]
    assert recalls[0] == 0  # nothing is kept of the first epoch
    assert recalls[2] > 0
    assert (tmp_path / "run" / "integral").exists() == bool(extra)
    assert not list((tmp_path / "run").rglob("working-*"))
    text = (tmp_path / "run" / "report.html").read_text()
    assert "Cumulative maps at half their maximum" in text
    assert "of what they cover is something else (noise)" in text
    assert "after 3 epochs" in text or "after 2 epochs" in text
    boxes = tagseg.locate([tiny_set / "images"], tmp_path / "run", tmp_path / "boxes", method="own", quiet=True)
    assert boxes


def test_maps_of_the_run_are_the_cumulative_ones(tiny_set: Path, tmp_path: Path):
    from tagseg.data.map_store import MapStore

    fitted(tiny_set, tmp_path / "run", "oaa")
    store = MapStore(tmp_path / "run" / "mine")
    peaks = np.concatenate([store.read(name).maps.max(axis=(1, 2)) for name in store])
    assert set(peaks.tolist()) <= {0, 1}
    assert peaks.mean() > 0.5  # after the last epoch only tags have no map of which the network saw nothing


def test_processes_learn_what_one_does(tiny_set: Path, tmp_path: Path, capsys: Any):
    """Without batch norms the same but for rounding, and every photograph's map is there whoever saw it.

    No more processes work than there are photographs in a batch, and they need not be able to share it evenly.
    """
    settings = {"backbone": "test_vit", "train.output_stride": None, "segment.output_stride": None, "train.side": 48}
    found = {}
    for processes, asked in ((1, 1), (3, 5)):
        out = tmp_path / str(processes)
        done = {**TINY, "train.epochs": 3, **settings, "train.batch_size": 3, "processes": asked}
        tagseg.fit(tiny_set, out, recipe="oaa++", settings=done, until="mine")
        found[processes] = np.load(out / "train" / "accumulated" / "round-003.npy").astype(int)
        found[f"network {processes}"] = load_file(out / "train" / "classifier.safetensors")
    assert np.abs(found[1] - found[3]).mean() < 4
    for key, value in found["network 1"].items():
        torch.testing.assert_close(found["network 3"][key], value, atol=2e-3, rtol=0)
    told = "train: 3 of 5 processes work, for there are no more to share in a batch of 3 photographs"
    assert told in capsys.readouterr().out


def test_integral_attention_goes_on_from_a_run_without_it(tiny_set: Path, tmp_path: Path, capsys: Any):
    fitted(tiny_set, tmp_path / "run", "oaa")
    network = (tmp_path / "run" / "train" / "classifier.safetensors").stat().st_mtime_ns
    integral = {"train.integral.epochs": 1, "train.integral.batch_size": 4, "train.integral.side": 49}
    tagseg.fit(
        tiny_set, tmp_path / "run", recipe="oaa+", settings={**TINY, "train.epochs": 3, **integral}, until="mine"
    )
    assert "train: already done, kept" in capsys.readouterr().out
    assert (tmp_path / "run" / "train" / "classifier.safetensors").stat().st_mtime_ns == network
    assert load_networks(tmp_path / "run")[1] is not None
    description = tmp_path / "run" / "integral" / "classifier.json"
    text = description.read_text()
    description.write_text("{")
    with pytest.raises(BadInput, match="this description of a classifier is damaged"):
        load_networks(tmp_path / "run")
    description.write_text(text)
    fitted(tiny_set, tmp_path / "run", "oaa")
    assert (tmp_path / "run" / "integral").exists()
    assert load_networks(tmp_path / "run")[1] is None  # it lies there still, but its maps are not those of the run


def test_of_several_tags_the_strongest_wins_a_place():
    maps = torch.tensor([[[[3.0, 1.0]], [[2.0, 4.0]], [[9.0, -1.0]]], [[[-1.0, -2.0]], [[5.0, 6.0]], [[1.0, 1.0]]]])
    found = winning(maps, torch.tensor([[1.0, 1, 0], [0, 0, 0]]))
    assert found[0, 0].tolist() == [[3, 0]]
    assert found[0, 1].tolist() == [[0, 4]]
    alone = winning(maps, torch.tensor([[0.0, 1, 0], [0, 1, 0]]))
    assert torch.equal(alone[:, 1], maps[:, 1])


# on features that are computed once


class Positions:
    """A store whose features are the columns and rows of the cells, of the photograph and its mirror image."""

    def __init__(self, cells: tuple[int, int]) -> None:
        down, across = np.mgrid[1 : cells[0] + 1, 1 : cells[1] + 1].astype(np.float32)
        self.whole = np.stack([across, down])

    def __contains__(self, name: str) -> bool:
        return name.endswith("|mirrored")

    def read(self, name: str) -> np.ndarray:
        return self.whole[:, :, ::-1] if name.endswith("|mirrored") else self.whole


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("side", [5, 9])
def test_stored_features_go_back_to_where_they_came_from(
    one_photograph: Sample, tmp_path: Path, corners: bool, side: int
):
    from tagseg.data.accumulated_views import AccumulatedFeatureViews, Seen
    from tagseg.data.geometry import Window, paste

    grid, cells, store = Grid(16, corners), (5, 7), Positions((5, 7))
    accumulated = Accumulator(tmp_path, [(1,)], [cells], grid, own=True)
    seen = Seen(accumulated, [(1,)], 3, (side, side), Drop("features", 1.0, 0.6), "growing")
    views = AccumulatedFeatureViews(seen, grid, (one_photograph,), 3, store, side, 0)
    accumulated.begin()
    raw = store.whole[:1] / 7
    size = tuple((n - corners) * 16 + corners for n in cells)
    accumulated.add(0, 0, raw[0], Window(size, (0, 0, size[1], size[0]), flipped=False))
    accumulated.finish(1)
    windows = set()
    for seed in range(30):
        views.seed = seed
        item = views[1, 0]
        windows.add(tuple(item["window"].tolist()))
        back, inside = paste(item["image"].numpy(), Window.from_row(item["window"].tolist()), cells, grid)
        np.testing.assert_allclose(back[:, inside], store.whole[:, inside], atol=1e-4)
        assert inside.sum() == 5 * min(7, side)
        within = item["image"][0] > 0  # what was found is seen, and hidden, where it lies
        np.testing.assert_allclose(item["accumulated"][1][within], item["image"][0][within] / 7, atol=0.01)
        assert torch.equal(item["keep"] == 0, item["image"][0] / 7 > 0.6)
    assert {window[-1] for window in windows} == {0, 1}


@pytest.mark.parametrize("name", ["oaa++", "oaa+++"])
def test_maps_accumulate_on_features_that_are_computed_once(tiny_set: Path, tmp_path: Path, name: str):
    frozen = {"train.frozen": True, "train.convolutions": 1, "train.side": 49, "cache.mirrored": True}
    if name == "oaa+++":
        frozen |= {"train.integral.epochs": 2, "train.integral.convolutions": 1}
    run = tagseg.fit(tiny_set, tmp_path / "run", recipe=name, settings={**TINY, "train.epochs": 3, **frozen},
                     until="premise", quiet=True).folder  # fmt: skip
    assert (run / "frozen" / "stage.json").exists()
    assert (run / "integral").exists() == (name == "oaa+++")
    before, after = (load_saved(run / place) for place in ("train", "integral" if name == "oaa+++" else "train"))
    assert after.settings.frozen
    for one, other in zip(before.backbone.parameters(), after.backbone.parameters(), strict=True):
        assert torch.equal(one, other)
