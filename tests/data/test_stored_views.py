"""Views whose features are stored: what they show, and that labels are cut as photographs are."""

from pathlib import Path

import numpy as np
import torch

from tagseg.data.dataset import Sample
from tagseg.data.feature_store import FeatureStore
from tagseg.data.feature_views import FeatureViews
from tagseg.data.images import write_mask
from tagseg.data.stored_views import LARGEST, SMALLEST, StoredView, stored_views, views_to_store


def test_parts_depend_on_the_name_alone_and_lie_inside():
    for name in ("a", "folder/b", "ü"):
        views = views_to_store(name, mirrored=True, parts=3)
        assert views == views_to_store(name, mirrored=True, parts=3)
        assert [v.mirrored for v in views] == [False, True, False, False, False]
        assert len({v.name for v in views}) == 5
        for view in views[2:]:
            y, x, share = view.part
            assert SMALLEST <= share <= LARGEST
            assert 0 <= y <= 1 - share
            assert 0 <= x <= 1 - share
    assert views_to_store("a", mirrored=False, parts=1)[1].part != views_to_store("b", mirrored=False, parts=1)[1].part


def test_a_view_of_an_array():
    array = np.arange(40).reshape(5, 8)
    np.testing.assert_array_equal(StoredView("a").of(array), array)
    np.testing.assert_array_equal(StoredView("a", mirrored=True).of(array), array[:, ::-1])
    np.testing.assert_array_equal(StoredView("a", part=(0.4, 0.25, 0.5)).of(array), array[2:4, 2:6])
    assert StoredView("a", part=(0.9, 0.9, 0.1)).of(np.zeros((3, 2, 3))).shape[:2] == (1, 1)


def test_what_is_stored_is_found():
    for mirrored in (False, True):
        for parts in (0, 2):
            views = views_to_store("a", mirrored=mirrored, parts=parts)
            assert stored_views("a", [v.name for v in views]) == views


def test_labels_are_cut_as_the_photograph_was(tmp_path: Path):
    """Features that are the labels themselves, at the cells of each view."""
    truth = np.random.default_rng(0).integers(0, 4, (64, 96)).repeat(8, axis=0).repeat(8, axis=1).astype(np.uint8)
    path = tmp_path / "a.png"
    write_mask(path, truth)
    sample = Sample(name="a", image=path, tags=(0,), mask=None)
    store = FeatureStore(tmp_path / "store", bits=16)
    entries = {}
    for view in views_to_store("a", mirrored=True, parts=2):
        seen = view.of(truth)
        rows, columns = ((np.arange(n) + 0.5) * size / n for n, size in zip((20, 30), seen.shape, strict=True))
        entries[view.name] = seen[rows.astype(int)][:, columns.astype(int)][None].astype(np.float32)
    store.write(entries)
    views = FeatureViews((sample,), 3, store, 30, 0, lambda s: s.image, fine=1)
    found = set()
    for epoch in range(20):
        item = views[epoch, 0]
        inside = item["mask"] != 255
        assert inside.sum() == 600
        agree = (item["image"][0][inside] == item["mask"][inside].float()).float().mean()
        assert agree > 0.9  # nearest pixels, rounded one way or the other
        found.add(item["mask"][inside].numpy().tobytes())
    assert len(found) == 4
    assert torch.equal(views[3, 0]["mask"], views[3, 0]["mask"])
