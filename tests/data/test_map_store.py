from pathlib import Path

import numpy as np
import pytest

from tagseg.data.map_store import MapStore, StoredMaps
from tagseg.errors import BadInput


def entry(seed: int, classes: tuple[int, ...], size: tuple[int, int]) -> StoredMaps:
    rng = np.random.default_rng(seed)
    return StoredMaps(classes, rng.random((len(classes), *size)), rng.random(6).astype(np.float32))


def test_maps_come_back_within_a_256th(tmp_path: Path):
    entries = {"one/a": entry(0, (1, 4), (5, 9)), "b": entry(1, (), (3, 3))}
    MapStore(tmp_path).write(entries)
    store = MapStore(tmp_path)
    store.write({"c": entry(2, (0,), (2, 2))})
    assert list(store) == ["one/a", "b", "c"]
    assert list(MapStore(tmp_path)) == ["one/a", "b", "c"]
    for name, given in entries.items():
        found = store.read(name)
        assert found.classes == given.classes
        assert np.abs(found.maps - given.maps).max(initial=0) <= 0.5 / 255 + 1e-6
        np.testing.assert_array_equal(found.tag_probabilities, given.tag_probabilities)
    assert store.read("one/a").only((4, 5)).classes == (4,)


def test_half_written_shards_do_not_count(tmp_path: Path):
    (tmp_path / "000000.safetensors.17.partial").write_bytes(b"half")
    store = MapStore(tmp_path)
    assert len(store) == 0
    with pytest.raises(BadInput, match="no maps of 'x'"):
        store.read("x")


def test_a_damaged_shard_is_named(tmp_path: Path):
    MapStore(tmp_path).write({"a": entry(0, (1,), (4, 4))})
    shard = tmp_path / "000000.safetensors"
    shard.write_bytes(shard.read_bytes()[:40])
    with pytest.raises(BadInput, match=r"000000\.safetensors: this shard"):
        MapStore(tmp_path)
