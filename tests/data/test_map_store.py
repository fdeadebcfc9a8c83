from pathlib import Path

import numpy as np
import pytest

from tagseg.data.map_store import MapStore, StoredMaps
from tagseg.errors import BadInput
from tagseg.grid import Grid


def entry(seed: int, classes: tuple[int, ...], size: tuple[int, int]) -> StoredMaps:
    rng = np.random.default_rng(seed)
    return StoredMaps(
        classes, rng.random((len(classes), *size)), rng.random(6).astype(np.float32), Grid(16, corners=bool(seed))
    )


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
        assert found.grid == given.grid
    assert store.read("one/a").only((4, 5)).classes == (4,)


@pytest.mark.parametrize("corners", [True, False])
def test_maps_give_themselves_at_any_size(corners: bool):
    """A ramp over the cells' own places is the same ramp over the pixels between them."""
    grid, length = Grid(8, corners), 33 if corners else 32
    cells = grid.cells(length, length)
    ramp = np.broadcast_to(grid.centres(cells[1], length), cells)[None].astype(np.float32)
    found = StoredMaps((0,), ramp, np.zeros(1), grid).at((length, length))
    inner = slice(None) if corners else slice(4, -4)  # beyond the outer centres there is nothing to go by
    np.testing.assert_allclose(found[0, 0, inner], np.arange(length)[inner], atol=1e-4)


def test_a_shard_that_went_missing_gets_its_own_name_again(tmp_path: Path):
    store = MapStore(tmp_path)
    for number, name in enumerate("abc"):
        store.write({name: entry(number, (1,), (4, 4))})
    (tmp_path / "000001.safetensors").unlink()
    MapStore(tmp_path).write({"b": entry(1, (1,), (4, 4))})
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"{n:06d}.safetensors" for n in range(3)]
    assert set(MapStore(tmp_path)) == {"a", "b", "c"}


def test_half_written_shards_do_not_count(tmp_path: Path):
    (tmp_path / "000000.safetensors.17.partial").write_bytes(b"half")
    store = MapStore(tmp_path)
    assert len(store) == 0
    with pytest.raises(BadInput, match="no class maps of 'x'"):
        store.read("x")


def test_a_damaged_shard_is_named(tmp_path: Path):
    MapStore(tmp_path).write({"a": entry(0, (1,), (4, 4))})
    shard = tmp_path / "000000.safetensors"
    shard.write_bytes(shard.read_bytes()[:40])
    with pytest.raises(BadInput, match=r"000000\.safetensors: this shard"):
        MapStore(tmp_path)
