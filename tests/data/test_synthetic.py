from pathlib import Path

import numpy as np

from tagseg.data import still_life
from tagseg.data.dataset import read_mask
from tagseg.data.images import read_image
from tagseg.data.reading import FileFacts, inspect_files, read_dataset
from tagseg.data.still_life import make_still_lifes
from tagseg.data.synthetic import CLASSES, make_synthetic


def test_tags_are_the_classes_in_the_mask(tiny_set: Path):
    data, _ = inspect_files(read_dataset(tiny_set), FileFacts())
    assert data.classes == CLASSES
    assert (len(data.train), len(data.val)) == (10, 4)
    assert data.problems == ()
    for sample in data.samples:
        mask = read_mask(sample.mask)
        assert tuple(sorted(set(np.unique(mask).tolist()) - {0})) == tuple(t + 1 for t in sample.tags)
        assert mask.shape == read_image(sample.image).shape[:2]


def test_the_same_seed_draws_the_same_photographs(tmp_path: Path):
    one, same, other = (
        make_synthetic(tmp_path / name, train=2, val=1, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    files = sorted(p.relative_to(one) for p in one.rglob("*.*"))
    assert all((one / f).read_bytes() == (same / f).read_bytes() for f in files)
    assert any((one / f).read_bytes() != (other / f).read_bytes() for f in files)


def test_a_whole_set_is_left_as_it_is(tmp_path: Path):
    make_synthetic(tmp_path, train=2, val=1)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.*")}
    make_synthetic(tmp_path, train=2, val=1)
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.*")}
    make_synthetic(tmp_path, train=2, val=1, seed=1)
    assert before != {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.*")}


def test_still_lifes_are_a_data_set_too(tmp_path: Path):
    make_still_lifes(tmp_path, train=6, val=2)
    data, _ = inspect_files(read_dataset(tmp_path), FileFacts())
    assert data.classes == still_life.CLASSES
    assert data.problems == ()
    for sample in data.samples:
        assert tuple(sorted(set(np.unique(read_mask(sample.mask)).tolist()) - {0})) == tuple(t + 1 for t in sample.tags)
