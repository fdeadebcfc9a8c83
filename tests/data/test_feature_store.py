"""Stored features: what comes back is what went in, to half a step."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tagseg.data.feature_store import FeatureStore, packed, unpacked
from tagseg.data.map_store import MapStore, StoredMaps
from tagseg.errors import BadInput
from tagseg.grid import PIXELS


def features(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(0, 1, (6, 5, 7)) * np.array([1, 10, 0.01, 500, 0, 1]).reshape(-1, 1, 1)).astype(np.float32)


def test_eight_bits_are_off_by_half_a_step_of_each_channel():
    before = features()
    after = unpacked(packed(before, 8))
    step = (before.max(axis=(1, 2)) - before.min(axis=(1, 2))) / 255
    assert (np.abs(after - before) <= step[:, None, None] * 0.501 + 1e-7).all()
    np.testing.assert_allclose(unpacked(packed(before, 16)), before, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("bits", [8, 16])
def test_it_gives_what_it_was_given(tmp_path: Path, bits: int):
    store = FeatureStore(tmp_path, bits)  # type: ignore[arg-type]
    first = {f"photo/{n}": features(n) for n in range(3)}
    store.write(first)
    store.write({"other": features(9)})
    again = FeatureStore(tmp_path)
    assert list(again) == [*first, "other"]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(again.read, [*first, "other"] * 5))
    for values, before in zip(found, [*first.values(), features(9)] * 5, strict=True):
        np.testing.assert_array_equal(values, unpacked(packed(before, bits)))
    assert sum(f.stat().st_size for f in tmp_path.iterdir()) < 4 * 6 * 35 * bits / 8 + 4000
    with pytest.raises(BadInput, match="nothing"):
        again.read("nothing")


def test_arrays_that_lie_otherwise_in_memory_come_back_as_they_were(tmp_path: Path):
    """safetensors writes memory as it lies; both stores must not leave that to their callers."""
    across = np.asfortranarray(features())
    store = FeatureStore(tmp_path / "features")
    store.write({"a": across})
    np.testing.assert_array_equal(store.read("a"), unpacked(packed(features(), 8)))
    maps = np.random.default_rng(0).random((2, 5, 7)).astype(np.float32)
    kept = MapStore(tmp_path / "maps")
    kept.write({"a": StoredMaps((0, 3), np.asfortranarray(maps), np.zeros(4, np.float32), PIXELS)})
    np.testing.assert_allclose(kept.read("a").maps, maps, atol=1 / 500)


def test_a_damaged_shard_is_told(tmp_path: Path):
    (tmp_path / "000000.safetensors").write_bytes(b"nothing")
    with pytest.raises(BadInput, match="damaged"):
        FeatureStore(tmp_path)
