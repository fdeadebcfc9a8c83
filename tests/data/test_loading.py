import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from tagseg.cores import prefetch
from tagseg.data.loading import EpochSampler, TrainingLoader, TrainingViews, normalise
from tagseg.data.reading import read_dataset
from tagseg.data.views import ViewSpec

STATISTICS = SimpleNamespace(mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.5))


def test_order_depends_on_seed_and_epoch_only():
    sampler = EpochSampler(10, 4, seed=3)
    first = list(sampler)
    assert first == list(EpochSampler(10, 4, seed=3))
    assert {index for _, index in first} == set(range(10))
    assert len(first) == len(sampler) == 12  # whole batches
    sampler.set_epoch(1)
    assert list(sampler) != first


def test_processes_share_an_epoch():
    shares = [list(EpochSampler(10, 6, seed=0, rank=r, world_size=3)) for r in range(3)]
    assert [len(s) for s in shares] == [4, 4, 4]
    assert {index for share in shares for _, index in share} == set(range(10))


@pytest.mark.parametrize(("processes", "parts"), [(1, 1), (2, 1), (3, 2), (4, 1), (1, 3), (2, 3)])
def test_a_batch_is_the_same_whoever_shares_it(processes: int, parts: int):
    """Of 7 photographs, which nobody can share evenly; and every photograph weighs as much as in one batch."""
    views = _Numbers(10)
    whole = [set(batch["number"].tolist()) for batch in TrainingLoader(views, 7, 0, threads=1)]
    loaders = [
        TrainingLoader(views, 7, 0, threads=1, rank=r, world_size=processes, parts=parts) for r in range(processes)
    ]
    batches = [[batch["number"].tolist() for batch in loader] for loader in loaders]
    assert {len(own) for own in batches} == {2 * parts} == {len(loader) for loader in loaders}
    for step in range(2):
        some = range(step * parts, (step + 1) * parts)
        assert {number for own in batches for part in some for number in own[part]} == whole[step]
        for own, loader in zip(batches, loaders, strict=True):
            for part in some:
                weight, portion = loader.weights(part)
                together = sum(len(others[part]) for others in batches)
                assert weight / len(own[part]) / processes / parts == pytest.approx(1 / 7)
                assert portion == pytest.approx(len(own[part]) * processes / together)


class _Numbers(Dataset):
    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, key: tuple[int, int]) -> dict[str, torch.Tensor]:
        return {"number": torch.tensor(key[1])}


def test_prefetch_keeps_order_and_bounds():
    running, most = 0, 0
    lock = threading.Lock()

    def work(item: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.001 * (5 - item % 5))
        with lock:
            running -= 1
        return item * item

    assert list(prefetch(work, range(20), ahead=4, threads=3)) == [i * i for i in range(20)]
    assert most <= 3


def test_an_error_in_a_thread_reaches_the_caller():
    with pytest.raises(ZeroDivisionError):
        list(prefetch(lambda item: 1 / item, [1, 0, 2]))


def test_normalise():
    image = np.array([[[255, 0, 51]]], dtype=np.uint8)
    expected = [(1 - 0.5) / 0.2, (0 - 0.4) / 0.25, (0.2 - 0.3) / 0.5]
    torch.testing.assert_close(normalise(image, STATISTICS).flatten(), torch.tensor(expected))


def test_batches_are_the_same_whoever_makes_them(tiny_set: Path):
    data = read_dataset(tiny_set)
    spec = ViewSpec(side=33, scales=(0.8, 1.6), seed=5, masks=lambda s: s.mask)
    views = TrainingViews(data.train, 6, STATISTICS, spec)
    slow, fast = (list(TrainingLoader(views, 4, seed=5, threads=t)) for t in (1, 4))
    assert [tuple(b["image"].shape) for b in slow] == [(4, 3, 33, 33)] * 3
    for one, other in zip(slow, fast, strict=True):
        assert one.keys() == {"image", "tags", "inside", "mask"}
        for key in one:
            torch.testing.assert_close(one[key], other[key], rtol=0, atol=0)
