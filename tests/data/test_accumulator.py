import pickle
from pathlib import Path

import numpy as np
import pytest

from tagseg.data.accumulator import Accumulator, synchronised
from tagseg.data.geometry import Window
from tagseg.errors import BadInput
from tagseg.grid import Grid

CLASSES, GRIDS = [(0, 2), (), (1,)], [(4, 5), (4, 4), (3, 6)]


def whole(grid: tuple[int, int]) -> Window:
    return Window((grid[0] * 8, grid[1] * 8), (0, 0, grid[1] * 8, grid[0] * 8), flipped=False)


def opened(folder: Path, fusion: str = "max") -> Accumulator:
    return Accumulator(folder, CLASSES, GRIDS, Grid(16, corners=False), fusion=fusion)  # type: ignore[arg-type]


def test_maximum_never_decreases(tmp_path: Path):
    accumulated, rng = opened(tmp_path), np.random.default_rng(0)
    before = [accumulated.maps(i, 0) for i in range(3)]
    for number in range(1, 6):
        accumulated.begin()
        for _ in range(4):
            x0, y0 = rng.integers(-8, 8, 2)
            view = Window((32, 40), (x0, y0, x0 + 32, y0 + 32), bool(rng.integers(2)))
            accumulated.add(0, int(rng.integers(2)), rng.normal(size=(4, 4)), view)
        accumulated.finish(number)
        after = [accumulated.maps(i, number) for i in range(3)]
        for old, new in zip(before, after, strict=True):
            assert (new >= old).all()
        before = after
    assert before[0].max() == 1
    assert not before[2].any()
    assert accumulated.rounds() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("fusion", ["max", "average"])
def test_the_maps_of_a_round_alone(tmp_path: Path, fusion: str):
    """They are those of the last two rounds, so that a round that is interrupted can be begun again."""
    accumulated = Accumulator(tmp_path, CLASSES, GRIDS, Grid(16, corners=False), fusion, own=True)  # type: ignore[arg-type]
    assert not accumulated.own_maps(2, 0).any()
    rng = np.random.default_rng(0)
    maps = rng.random((4, 3, 6)) + 0.01
    maps /= maps.max(axis=(1, 2), keepdims=True)
    for number, raw in enumerate(maps, 1):
        accumulated.begin(rounds=number - 1)
        if number != 3:  # a round in which the tag is not found
            accumulated.add(2, 0, raw, whole((3, 6)))
        accumulated.finish(number)
        expected = np.zeros_like(raw) if number == 3 else raw
        np.testing.assert_allclose(accumulated.own_maps(2, number)[0], expected, atol=4e-3)
    assert sorted(p.name for p in tmp_path.glob("own-*.npy")) == ["own-003.npy", "own-004.npy"]
    accumulated.begin(rounds=3)
    assert [p.name for p in tmp_path.glob("own-*.npy")] == ["own-003.npy"]
    assert not list(opened(tmp_path / "other", fusion).folder.glob("own-*"))


def test_average_of_what_was_seen(tmp_path: Path):
    accumulated = opened(tmp_path, "average")
    rng = np.random.default_rng(0)
    maps = rng.random((6, 3, 6)) + 0.01
    for number in range(3):
        accumulated.begin()
        for raw in maps[2 * number : 2 * number + 2]:
            accumulated.add(2, 0, raw, whole((3, 6)))
        accumulated.finish(number + 1)
    expected = (maps / maps.max(axis=(1, 2), keepdims=True)).mean(axis=0)
    np.testing.assert_allclose(accumulated.maps(2, 3)[0], expected, atol=2e-3)
    left = Window((24, 48), (0, 0, 24, 24), flipped=False)  # the other half is as it was
    accumulated.begin()
    accumulated.add(2, 0, np.ones((3, 3)), left)
    accumulated.finish(4)
    np.testing.assert_allclose(accumulated.maps(2, 4)[0][:, 3:], accumulated.maps(2, 3)[0][:, 3:])
    np.testing.assert_allclose(accumulated.maps(2, 4)[0][:, :3], (6 * expected[:, :3] + 1) / 7, atol=3e-3)


@pytest.mark.parametrize("fusion", ["max", "average"])
def test_processes_are_joined(tmp_path: Path, fusion: str):
    """Two that saw different views leave what one would have that saw both."""
    rng = np.random.default_rng(0)
    views = [(index, position, rng.normal(size=GRIDS[index])) for index, position in ((0, 0), (0, 1), (2, 0), (0, 0))]
    alone, first, second = (opened(tmp_path / name, fusion) for name in ("alone", "both", "both"))
    for number in (1, 2):
        alone.begin()
        first.begin(rank=0)
        second.begin(rank=1)
        for place, (index, position, raw) in enumerate(views):
            for one in (alone, (first, second)[place % 2]):
                one.add(index, position, raw + 0.1 * number, whole(GRIDS[index]))
        alone.finish(number)
        second.flush()
        synchronised(lambda: None, first, number, rank=0, ranks=2)
    for index in range(3):
        np.testing.assert_allclose(second.maps(index, 2), alone.maps(index, 2), atol=1e-3)


def test_a_round_that_was_interrupted_leaves_nothing(tmp_path: Path):
    one = opened(tmp_path)
    one.begin()
    one.add(0, 0, np.ones((4, 5)), whole((4, 5)))
    one.finish(1)
    one.begin()
    one.add(0, 1, np.ones((4, 5)), whole((4, 5)))
    assert one.has_map(0, 1, 1)
    del one  # killed
    again = opened(tmp_path)
    again.begin()
    assert again.has_map(0, 0, 1)
    assert not again.has_map(0, 1, 1)
    again.finish(2)
    np.testing.assert_array_equal(again.maps(0, 2), again.maps(0, 1))
    again.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["geometry.json", "round-001.npy", "round-002.npy"]


def test_nothing_positive_is_no_map(tmp_path: Path):
    accumulated = opened(tmp_path)
    accumulated.begin()
    assert not accumulated.add(0, 0, -np.ones((4, 5)), whole((4, 5)))
    assert not accumulated.add(0, 0, np.ones((4, 5)), Window((32, 40), (100, 0, 140, 32), flipped=False))
    assert not accumulated.has_map(0, 0, 0)


def test_one_byte_a_cell_and_another_process_opens_its_own(tmp_path: Path):
    accumulated = opened(tmp_path)
    assert accumulated.bytes == 2 * 20 + 18
    assert opened(tmp_path, "average").bytes == 4 * (2 * 20 + 18)
    accumulated.begin()
    copy = pickle.loads(pickle.dumps(accumulated))
    assert copy.cells == accumulated.cells
    assert copy._working is None


@pytest.mark.parametrize(("room", "kept"), [(1, [5, 6]), (58 * 3, [4, 5, 6]), (1 << 20, [1, 2, 3, 4, 5, 6])])
def test_old_rounds_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int, kept: list[int]):
    monkeypatch.setattr("tagseg.data.accumulator.ROOM", room)
    accumulated = opened(tmp_path)
    for number in range(1, 7):
        accumulated.begin()
        accumulated.add(0, 0, np.ones((4, 5)), whole((4, 5)))
        accumulated.finish(number)
    assert accumulated.rounds() == kept
    assert accumulated.maps(0, 6)[0].min() == 1


def test_missing_and_foreign_files(tmp_path: Path):
    accumulated = opened(tmp_path)
    with pytest.raises(BadInput, match=r"round-003\.npy: the cumulative maps of this round are missing"):
        accumulated.maps(0, 3)
    np.save(tmp_path / "round-002.npy", np.zeros(7, np.uint8))
    with pytest.raises(BadInput, match="of other photographs"):
        accumulated.maps(0, 2)


def test_maps_tell_what_they_are_of(tmp_path: Path):
    """So that nobody needs the network that made them."""
    made = opened(tmp_path)
    made.begin()
    made.finish(1)
    again = Accumulator.open(tmp_path, CLASSES)
    assert (again.grid, again.cells, again.fusion) == (made.grid, made.cells, made.fusion)
    with pytest.raises(BadInput, match="other photographs"):
        Accumulator.open(tmp_path, CLASSES[:-1])
    with pytest.raises(BadInput, match="train again"):
        Accumulator.open(tmp_path / "nowhere", CLASSES)


def test_a_training_that_begins_anew_forgets_later_rounds(tmp_path: Path):
    made = opened(tmp_path)
    for rounds in range(3):
        made.begin(rounds=rounds)
        made.finish(rounds + 1)
    made.begin(rounds=1)
    assert made.rounds() == [1]
