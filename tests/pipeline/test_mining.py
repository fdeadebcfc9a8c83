from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import tagseg
from tagseg.attribution import ContrastiveExcitation, LayerCAM
from tagseg.data.map_store import StoredMaps
from tagseg.data.reading import FileFacts, inspect_files, read_dataset
from tagseg.errors import BadInput
from tagseg.explaining.explainer import OwnMaps
from tagseg.grid import PIXELS, Grid
from tagseg.methods.cam import CAM, CAMSettings
from tagseg.methods.tag_classifier import TagClassifier
from tagseg.pipeline.attributing import AttributionMiner
from tagseg.pipeline.mining import Miner, mine, through_windows, to_class_maps
from tagseg.pipeline.networks import check_networks
from tagseg.pipeline.settings import MineSettings, resolve
from tests.conftest import TINY, names
from tests.methods.any_method import built


@pytest.fixture
def method() -> CAM:
    return CAM("test_resnet", "random", names(6), CAMSettings(), 1)


def test_scales_and_flips_are_averaged(method: CAM):
    photo = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    several = Miner(method, MineSettings(side=65, scales=(1.0, 2.0)))
    single = [Miner(method, MineSettings(side=side, scales=(1.0,), flip=False)) for side in (65, 130)]
    mirrored = np.ascontiguousarray(photo[:, ::-1])
    maps = []
    for miner in single:
        (plain,), _ = miner([photo])
        (flipped,), _ = miner([mirrored])
        maps += [torch.from_numpy(plain)[None], torch.from_numpy(flipped)[None].flip(-1)]
    size = tuple(maps[-1].shape[-2:])
    expected = torch.stack([Grid(16, corners=True).resize(m, size) for m in maps]).mean(dim=0)[0]
    (found,), (tags,) = several([photo])
    assert found.shape == (6, *size)
    np.testing.assert_allclose(found, expected.numpy(), atol=2e-2 * np.abs(found).max())
    assert tags.shape == (6,)


def test_class_maps_are_rectified_gated_and_divided_by_their_maximum():
    signed = np.array([[[-1.0, 2.0, 1.0]], [[5.0, 5.0, 5.0]], [[-1.0, -2.0, -3.0]]])
    lowest = to_class_maps(2 + np.abs(signed), (0, 2), np.zeros(3), Grid(16, corners=True), from_minimum=True)
    assert lowest.maps.min(axis=(1, 2)).tolist() == [0, 0]
    assert lowest.maps.max(axis=(1, 2)).tolist() == [1, 1]
    stored = to_class_maps(signed, (0, 2), np.array([0.9, 0.1, 0.6]), Grid(16, corners=True))
    assert stored.classes == (0, 2)
    assert stored.maps.tolist() == [[[0.0, 1.0, 0.5]], [[0.0, 0.0, 0.0]]]


def test_maps_of_no_class_have_no_maps():
    assert StoredMaps((), np.zeros((0, 3, 4)), np.zeros(6), Grid(16, corners=True)).at((30, 41)).shape == (0, 30, 41)


def test_every_photograph_is_mined_whatever_its_size(tiny_set: Path, tmp_path: Path, method: CAM):
    data, facts = inspect_files(read_dataset(tiny_set), FileFacts())
    miner = Miner(method, MineSettings(side=65, scales=(1.0,)))
    store = mine(miner, data.train, facts, tmp_path, lambda done, remark: None)
    assert set(store) == {s.name for s in data.train}
    for sample in data.train:
        stored = store.read(sample.name)
        assert stored.classes == sample.tags
        size = facts[sample.name].size
        alone = miner([np.zeros((*size, 3), np.uint8)])[0][0].shape[-2:]
        assert stored.maps.shape == (len(sample.tags), *alone)
        assert all(m.max() in (0, 1) for m in stored.maps)


def test_maps_may_meet_at_every_pixel(tiny_set: Path, tmp_path: Path, method: CAM):
    data, facts = inspect_files(read_dataset(tiny_set), FileFacts())
    miner = Miner(method, MineSettings(side=65, scales=(0.5, 1.0), fusion="photograph"))
    store = mine(miner, data.train, facts, tmp_path, lambda done, remark: None)
    for sample in data.train:
        stored, size = store.read(sample.name), facts[sample.name].size
        assert stored.maps.shape == (len(sample.tags), *size)
        assert stored.grid == PIXELS
        assert stored.at(size) is not None


class Positions(torch.nn.Module):
    """A network whose cells say where they lie: stride 16, cells on the corners."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images[:, :1, ::16, ::16]


@pytest.mark.parametrize("size", [(65, 97), (49, 49), (33, 129), (17, 17)])
def test_windows_are_put_back_where_they_were(method: CAM, size: tuple[int, int]):
    images = torch.arange(size[0] * size[1] * 3.0).view(1, 3, *size)
    network = Positions()
    found = through_windows(network, images, side=49, step=16, grid=method.backbone.grid)
    torch.testing.assert_close(found, network(images))


def test_overlapping_windows_are_averaged(method: CAM):
    seen: list[tuple[int, int]] = []

    def network(images: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(images.shape[-2:]))
        return torch.full((1, 1, 4, 4), float(len(seen)))

    found = through_windows(network, torch.zeros(1, 3, 49, 81), side=49, step=32, grid=method.backbone.grid)
    assert seen == [(49, 49)] * 2
    assert found[0, 0, 0].tolist() == [1, 1, 1.5, 1.5, 2, 2]


def test_the_window_is_a_setting(method: CAM):
    photo = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    plain, windowed = (Miner(method, MineSettings(side=97, scales=(1.0,), window=w)) for w in (None, 49))
    a, b = (miner([photo])[0][0] for miner in (plain, windowed))
    assert a.shape == b.shape
    assert np.abs(a - b).max() > 0
    wide = Miner(method, MineSettings(side=161, scales=(1.0,), window=49, window_stride=500))
    assert np.isfinite(wide([photo])[0][0]).all()  # without gaps


def test_maps_of_an_attribution(method: CAM):
    rng = np.random.default_rng(0)
    photos = [rng.integers(0, 256, (50, 70, 3), dtype=np.uint8) for _ in range(3)]
    how = MineSettings(side=65, scales=(1.0,), flip=False, attribution="layercam")
    maps, found = AttributionMiner(method, how)(photos, [(1, 4), (), (2,)])
    pixels = Miner(method, how).pixels(photos, (49, 65))
    right = LayerCAM(TagClassifier(method), "stages")(pixels, [[1, 4], [0, 0], [2, 2]])
    right = F.interpolate(right, size=(13, 17), mode="area").numpy()
    np.testing.assert_allclose(maps[0][[1, 4]], right[0], atol=1e-5)
    np.testing.assert_allclose(maps[2][2], right[2, 0], atol=1e-5)
    assert [np.flatnonzero(m.any(axis=(1, 2))).tolist() for m in maps] == [[1, 4], [], [2]]
    np.testing.assert_allclose(found, Miner(method, how)(photos)[1], atol=0.02)  # there in half precision
    # with its mirror image every photograph has the mirrored maps, and what is found has maps too
    flipped = AttributionMiner(method, how.model_copy(update={"flip": True, "scales": (0.5, 1.0)}))
    mirrored = [np.ascontiguousarray(photo[:, ::-1]) for photo in photos]
    (one, _), (other, _) = (flipped(given, [(1,)] * 3) for given in (photos, mirrored))
    np.testing.assert_allclose(one[0][1], other[0][1][:, ::-1], atol=1e-4)
    torch.nn.init.constant_(method.classifier.weight[3], 1.0)  # a class that is found everywhere
    everything = flipped(photos, [(1,)] * 3, predicted=True)[0]
    assert all(m[3].any() for m in everything)
    with pytest.raises(BadInput, match="a fusion of its own"):
        resolve("cam", {"mine.attribution": "layercam", "mine.rectify": True})
    with pytest.raises(BadInput, match="sees photographs whole"):
        resolve("cam", {"mine.attribution": "layercam", "mine.window": 97})


def test_maps_of_contrastive_excitation(method: CAM):
    photo = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    how = MineSettings(side=65, scales=(1.0,), flip=False, attribution="cmwp", layers="last")
    (maps,), found = AttributionMiner(method, how)([photo], [(1, 4)])
    right = ContrastiveExcitation(TagClassifier(method), "last")(Miner(method, how).pixels([photo], (49, 65)), [1, 4])
    np.testing.assert_allclose(maps[[1, 4]], F.interpolate(right, size=(13, 17), mode="area")[0].numpy(), atol=1e-5)
    np.testing.assert_allclose(found, Miner(method, how)([photo])[1], atol=0.02)
    for one in ("acol", "seenet", "seam", "sipe", "recam", "spg", "ktse"):  # each with more than one head or branch
        check_networks(resolve(one, {**TINY, "mine.attribution": "cmwp", "mine.layers": "last"}), names(3))
    with pytest.raises(BadInput, match="no plain sums of evidence"):
        check_networks(resolve("l2g", {**TINY, "mine.attribution": "cmwp", "train.view_side": 49}), names(3))
    with pytest.raises(BadInput, match="convolutional network"):
        check_networks(resolve("cam", {**TINY, "backbone": "test_vit", "mine.attribution": "cmwp"}), names(3))


@pytest.mark.parametrize("attribution", ["layercam", "cmwp"])
def test_an_attribution_teaches_a_network(attribution: str, tiny_set: Path, tmp_path: Path):
    """Tables 3.11 and 3.12 of the thesis."""
    settings = {**TINY, "mine.attribution": attribution, "mine.flip": False}
    result = tagseg.fit(tiny_set, tmp_path / "run", recipe="cam", settings=settings, quiet=True)
    assert result.metrics.val is not None
    assert result.metrics.val.class_maps is not None


@pytest.mark.parametrize(
    ("recipe", "changes", "words"),
    [
        ("cam", {"mine.layers": "stage"}, "stage"),
        ("cam", {"mine.layers": ["nowhere"]}, "nowhere"),
        ("oaa", {}, "those that grew in training"),
    ],
)
def test_an_attribution_that_cannot_work_is_refused_first(recipe: str, changes: dict[str, Any], words: str):
    with pytest.raises(BadInput, match=words):
        check_networks(resolve(recipe, {**TINY, "mine.attribution": "layercam", **changes}), names(3))


@pytest.mark.parametrize("method", ["cam", "l2g", "toco"])
def test_random_weights_are_not_held(method: str):
    """They would stay what they are, or learn against what was asked for."""
    with pytest.raises(BadInput, match="random weights would never learn"):
        check_networks(resolve(method, {**TINY, "train.early_stride": "all"}), names(3))


@pytest.mark.parametrize("part", ["segment", "train.integral"])
def test_nor_are_those_of_a_network_that_comes_after_it(part: str):
    with pytest.raises(BadInput, match=f"{part}.early_stride=all: random weights would never learn"):
        check_networks(resolve("oaa+", {**TINY, f"{part}.early_stride": "all"}), names(3))


def test_what_does_nothing_where_a_backbone_stays():
    """SPG's guidance would teach nothing that makes its maps, and nothing is dropped."""
    held = {"train.early_stride": "all"}
    for method, setting, idle, meant in (("spg", "train.convolutions", 0, 1), ("ktse", "train.dropout", 0.2, None)):
        with pytest.raises(BadInput, match="stays as it is"):
            resolve(method, {**held, setting: idle})
        assert resolve(method, {**held, setting: meant}).train.early_stride == "all"
    with pytest.raises(BadInput, match=r"train\.convolutions"):
        resolve("spg", held)


def test_every_method_has_layers_to_ask():
    """Also where a root of what is 0 lies beside its scores."""
    for method in ("mctformer+", "oaa+", "ss-epa", "l2g"):
        backbone = "test_resnet" if method in ("oaa+", "l2g") else "test_vit"
        settings = {**TINY, "backbone": backbone, "mine.attribution": "layercam", "train.side": 64}
        settings |= {"segment.backbone": "test_resnet", "segment.weights": "random", "segment.start": "weights"}
        check_networks(resolve(method, settings), names(3))


def test_what_is_explained_begins_where_what_is_mined_does():
    network = built("mctformer-v1", names(3))
    images, classes = torch.randn(2, 3, 64, 64), torch.tensor([[0, 2], [1, 0]])
    (maps,) = OwnMaps(TagClassifier(network.eval())).layer_maps(images, classes)
    assert maps.shape[:2] == (2, 2)
    assert (maps.amin(dim=(2, 3)) == 0).all()
    assert maps.max() > 0
