from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tagseg.data.dataset import Sample
from tagseg.data.paired_views import PairedViews, partner, photographs_of
from tagseg.data.views import flip, random_crop, whole
from tagseg.methods.ktse import KTSE, KTSESettings
from tests.conftest import names

TAGS = ((0, 1), (0,), (1,), (0,), (2,), ())


def test_an_index_of_photographs_by_tag():
    assert [members.tolist() for members in photographs_of(TAGS, 4)] == [[0, 1, 3], [0, 2], [4], []]


def drawn(index: int, times: int = 3000, **options: bool) -> dict[int, float]:
    rng, photographs = np.random.default_rng(0), photographs_of(TAGS, 4)
    found = [partner(index, TAGS[index], photographs, rng, **options) for _ in range(times)]
    return {number: found.count(number) / times for number in sorted(set(found))}


def test_partners_share_a_class_and_are_drawn_evenly():
    """A random class first, then a random photograph of it."""
    assert drawn(0) == pytest.approx({1: 0.25, 2: 0.5, 3: 0.25}, abs=0.03)
    assert drawn(1) == pytest.approx({0: 0.5, 3: 0.5}, abs=0.03)
    assert drawn(3) == pytest.approx({0: 0.5, 1: 0.5}, abs=0.03)
    assert drawn(1, itself=True) == pytest.approx({0: 1 / 3, 1: 1 / 3, 3: 1 / 3}, abs=0.03)


def test_who_is_alone_is_its_own_partner():
    assert drawn(4, 10) == {4: 1}
    assert drawn(5, 10) == {5: 1}


@pytest.mark.parametrize("side", [20, 50])
def test_what_of_a_view_is_photograph(side: int):
    """White photographs on a black border, mirrored or not."""
    rng, fill = np.random.default_rng(0), np.zeros(3, np.uint8)
    for _ in range(20):
        view = random_crop(whole(np.full((30, 44, 3), 255, np.uint8)), (side, side), rng, fill)
        for shown in (view, flip(view)):
            y0, y1, x0, x1 = shown.inside
            assert (shown.image[y0:y1, x0:x1] == 255).all()
            assert (shown.image == 255).all(axis=2).sum() == (y1 - y0) * (x1 - x0)


def test_pairs_begin_with_their_epoch_and_are_the_same_again(tmp_path: Path):
    rng = np.random.default_rng(0)
    samples = []
    for number, tags in enumerate(TAGS):
        Image.fromarray(rng.integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(tmp_path / f"{number}.png")
        samples.append(Sample(str(number), tmp_path / f"{number}.png", tags))
    network = KTSE("test_resnet", "random", names(3), KTSESettings(side=49, epochs=4, warmup=0.5), 10)
    views = network.training_views(tuple(samples), 3)
    assert isinstance(views, PairedViews)
    early, late, again = views[1, 0], views[2, 0], views[2, 0]
    assert set(early) == {"image", "tags", "inside"}
    assert set(late) == {"image", "tags", "inside", "partner", "partner_tags"}
    assert late["partner"].shape == late["image"].shape == (3, 49, 49)
    assert (late["partner_tags"] * late["tags"]).any()
    assert all(torch.equal(late[name], again[name]) for name in late)
    assert not torch.equal(late["image"], late["partner"])
    assert set(views[2, 5]) == set(late)  # no tags


def test_without_erasing_there_are_no_partners():
    network = KTSE("test_resnet", "random", names(3), KTSESettings(side=49, erasing="none", warmup=0), 10)
    assert network.training_views((), 0).pairs_from is None
