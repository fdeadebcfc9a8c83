from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tagseg.data.dataset import Sample
from tagseg.data.local_views import LocalViews, is_square, place_boxes
from tagseg.data.photometry import jitter_colours
from tagseg.data.views import whole
from tagseg.methods.l2g import L2G, L2GSettings
from tests.conftest import names


@pytest.mark.parametrize("placement", ["random", "uniform", "corners"])
@pytest.mark.parametrize("count", [1, 4, 9])
def test_boxes_lie_within_the_view(placement: Any, count: int):
    boxes = place_boxes(449, 321, count, placement, np.random.default_rng(0))
    assert boxes.shape == (count, 4)
    assert boxes.min() >= 0
    assert boxes.max() <= 449
    assert (boxes[:, 2:] - boxes[:, :2] == 321).all()


def test_where_boxes_lie():
    rng = np.random.default_rng(0)
    corners = place_boxes(448, 320, 6, "corners", rng)
    assert corners[:4, :2].tolist() == [[0, 0], [128, 0], [0, 128], [128, 128]]
    assert len(np.unique(corners, axis=0)) == 6
    uniform = place_boxes(448, 320, 9, "uniform", rng)
    assert sorted(map(tuple, uniform[:, :2])) == [(x, y) for x in (0, 64, 128) for y in (0, 64, 128)]
    assert place_boxes(448, 320, 1, "uniform", rng).tolist() == [[64, 64, 384, 384]]
    many = place_boxes(448, 320, 5000, "random", rng)[:, :2]
    assert many.min() == 0
    assert many.max() == 128
    assert len(place_boxes(448, 320, 3, "corners", rng)) == 3


def test_square_numbers():
    assert [n for n in range(1, 17) if is_square(n)] == [1, 4, 9, 16]


@pytest.fixture
def photograph(tmp_path: Path) -> Sample:
    """Red grows to the right and green downwards; salient is the left half."""
    y, x = np.mgrid[0:60, 0:80]
    image = np.stack([3 * x, 4 * y, 0 * x], axis=-1).astype(np.uint8)
    Image.fromarray(image).save(tmp_path / "photo.png")
    Image.fromarray(np.where(x < 40, 255, 0).astype(np.uint8)).save(tmp_path / "salient.png")
    return Sample("photo", tmp_path / "photo.png", (1,), saliency=tmp_path / "salient.png")


def views_of(sample: Sample, **settings: Any) -> LocalViews:
    network = L2G("test_resnet", "random", names(3), L2GSettings(side=49, **settings), 10)
    return network.training_views((sample,), 0)


def test_what_a_photograph_gives(photograph: Sample):
    views = views_of(photograph, saliency=True, views=5)
    item = views[0, 0]
    assert item["image"].shape == (3, 49, 49)
    assert item["saliency"].shape == (49, 49)
    assert item["boxes"].shape == (5, 4)
    assert item["tags"].tolist() == [0, 1, 0]
    again = views[0, 0]
    assert all((item[key] == again[key]).all() for key in item)
    assert (item["boxes"] != views[1, 0]["boxes"]).any()


def test_the_short_side_is_scaled_and_nothing_is_padded(photograph: Sample):
    views = views_of(photograph)
    for epoch in range(10):
        view = views.view(epoch, 0)
        assert view.size == (56, 75)
        x0, y0, x1, y1 = view.box
        assert min(x0, y0) >= 0
        assert x1 <= 75
        assert y1 <= 56


def test_mirroring_can_be_left_out(photograph: Sample):
    assert {views_of(photograph).view(epoch, 0).flipped for epoch in range(12)} == {True, False}
    assert {views_of(photograph, mirror=False).view(epoch, 0).flipped for epoch in range(12)} == {False}


def test_colours_change_and_geometry_does_not(photograph: Sample):
    plain, other = views_of(photograph), views_of(photograph, colour_jitter=True)
    assert (plain[0, 0]["boxes"] == other[0, 0]["boxes"]).all()
    assert (plain[0, 0]["image"] - other[0, 0]["image"]).abs().max() > 0.01
    for seed in range(10):
        view = whole(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8))
        changed = jitter_colours(view, np.random.default_rng(seed))
        assert changed.window == view.window
        assert changed.image.shape == view.image.shape
        assert changed.image.dtype == np.uint8
        assert np.corrcoef(changed.image.ravel(), view.image.ravel())[0, 1] > 0.6


def test_grey_has_no_hue_to_change():
    grey = np.full((8, 8, 3), 128, dtype=np.uint8)
    for seed in range(10):
        found = jitter_colours(whole(grey), np.random.default_rng(seed)).image
        assert np.ptp(found) <= 1
        assert 80 <= found.mean() <= 180
