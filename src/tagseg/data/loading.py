"""Loading in an order, and with an augmentation, that depend on (seed, epoch, photograph) and on nothing
else.

A run that was stopped and goes on at an epoch's start therefore sees exactly what an undisturbed run sees.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle, islice
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler, default_collate

from tagseg.cores import prefetch
from tagseg.data.dataset import Sample, multi_hot, read_saliency
from tagseg.data.images import read_image, read_index_png
from tagseg.data.photometry import jitter_colours
from tagseg.data.views import View, ViewSpec, random_view, whole


class EpochSampler(Sampler[tuple[int, int]]):
    """A sampler of `(epoch, index)` in a random order fixed by seed and epoch.

    Each process gets its own share. The last incomplete batch is filled up from the order's start, so that no step has
    a batch of one.
    """

    def __init__(self, length: int, batch_size: int, seed: int, *, rank: int = 0, world_size: int = 1) -> None:
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.batches = -(-length // batch_size)
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch; the trainer calls this before every epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.length)
        order = np.resize(order, (self.batches, self.batch_size))[:, self.rank :: self.world_size]
        return ((self.epoch, int(index)) for index in order.flat)

    def __len__(self) -> int:
        return self.batches * len(range(self.rank, self.batch_size, self.world_size))


class PixelStatistics(Protocol):
    """The per-channel mean and deviation of RGB in 0..1 that a network wants subtracted and divided."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def normalise(image: np.ndarray, statistics: PixelStatistics) -> torch.Tensor:
    """Normalises a photograph as the network wants it: `(H, W, 3)` uint8 RGB -> `(3, H, W)` float32."""
    scale = 1 / (255 * np.asarray(statistics.std, dtype=np.float32))
    shift = np.asarray(statistics.mean, dtype=np.float32) / np.asarray(statistics.std, dtype=np.float32)
    return torch.from_numpy(image.astype(np.float32) * scale - shift).permute(2, 0, 1)


def to_pixels(images: torch.Tensor, statistics: PixelStatistics) -> np.ndarray:
    """Returns the photographs that were normalised: `(B, 3, H, W)` float -> `(B, H, W, 3)` uint8 RGB."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (statistics.mean, statistics.std))
    pixels = 255 * (images.detach().cpu().float() * std + mean)
    return pixels.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


class TrainingViews(Dataset[dict[str, Any]]):
    """Random views of tagged photographs.

    They hold `image (3, S, S)`, `tags (C,)`, `inside (4,)`, y0, y1, x0, x1 of the photograph within the view, the rest
    being padding, and as the specification says `mask (S, S)` and `saliency (S, S)` in [0, 1], which is 0 on padding.
    The samples' true masks are never opened here.

    Args:
        samples: the photographs.
        num_classes: C.
        statistics: what the network wants subtracted and divided.
        spec: how views are cut, and what comes with them.
    """

    def __init__(
        self,
        samples: tuple[Sample, ...],
        num_classes: int,
        statistics: PixelStatistics,
        spec: ViewSpec,
    ) -> None:
        self.samples, self.num_classes, self.statistics, self.spec = samples, num_classes, statistics, spec
        mean = np.zeros(3) if spec.black else np.asarray(statistics.mean)
        self.fill = np.round(255 * mean).astype(np.uint8)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        return self.item(key[1], self.view(*key))

    def view(self, epoch: int, index: int) -> View:
        """Returns the view of photograph `index` that an epoch shows."""
        return self.drawn(index, np.random.default_rng((self.spec.seed, epoch, index)))

    def drawn(self, index: int, rng: np.random.Generator) -> View:
        """Returns a random view of photograph `index`."""
        sample, spec = self.samples[index], self.spec
        mask = None if spec.masks is None else read_index_png(spec.masks(sample))
        photo = read_image(sample.image)
        salient = read_saliency(sample, photo.shape[:2]) if spec.saliency else None
        return self.cut(whole(photo, mask, salient), rng)

    def cut(self, photo: View, rng: np.random.Generator) -> View:
        """Returns a random view of a whole photograph."""
        s = self.spec
        view = random_view(photo, s.side, s.scales, rng, self.fill, short=s.short, mirror=s.mirror)
        return jitter_colours(view, rng) if s.jitter else view

    def item(self, index: int, view: View) -> dict[str, Any]:
        """Returns a view as tensors, with the tags of photograph `index`."""
        sample = self.samples[index]
        item: dict[str, Any] = {
            "image": normalise(view.image, self.statistics),
            "tags": torch.from_numpy(multi_hot(sample.tags, self.num_classes)),
            "inside": torch.tensor(view.inside),
        }
        if view.mask is not None:
            item["mask"] = torch.from_numpy(view.mask.astype(np.int64))
        if view.saliency is not None:
            item["saliency"] = torch.from_numpy(view.saliency.astype(np.float32) / 255)
        return item


class TrainingLoader:
    """Batches of `(epoch, index)`-keyed views, made by threads a few batches ahead of the training step.

    They are threads, not processes: decoding, resizing and array arithmetic all let go of Python's lock, while worker
    processes copy the interpreter (half a gigabyte each where they are spawned) or, forked beside running thread pools,
    hang.

    Args:
        views: maps `(epoch, index)` to a dictionary of tensors.
        batch_size: photographs a step, of all processes together.
        seed: fixes the order.
        threads: how many views are made at once.
        rank, world_size: the number of this process, and how many share a batch, at most one for each photograph; the
            first ones have one more where it cannot be shared evenly.
        parts: that come one after the other instead of a process's share, at most one for each photograph of it.
    """

    def __init__(
        self,
        views: Dataset[Any],
        batch_size: int,
        seed: int,
        threads: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        parts: int = 1,
    ) -> None:
        self.views, self.threads, self.batch_size = views, threads, batch_size
        self.sizes = [_parted(len(range(n, batch_size, world_size)), parts) for n in range(world_size)]
        self.own = self.sizes[rank]
        length = len(views)  # type: ignore[arg-type]
        self.sampler = EpochSampler(length, batch_size, seed, rank=rank, world_size=world_size)

    def weights(self, number: int) -> tuple[float, float]:
        """Returns what batch `number` of an epoch weighs, and how much of it is this process's.

        The former is by how much its loss must be multiplied so that the mean over processes and parts is that of all
        photographs of a step; the latter how many times as many photographs of this part this process has as it would
        have if all had as many. Both are 1 where everything is shared evenly.
        """
        part, shares = number % len(self.own), len(self.sizes) * len(self.own)
        together = sum(sizes[part] for sizes in self.sizes)
        return self.own[part] * shares / self.batch_size, self.own[part] * len(self.sizes) / together

    def __len__(self) -> int:
        return self.sampler.batches * len(self.own)

    def __iter__(self) -> Iterator[Any]:
        items = prefetch(self.views.__getitem__, self.sampler, ahead=3 * max(self.own), threads=self.threads)
        for size in cycle(self.own):
            batch = list(islice(items, size))
            if not batch:
                return
            yield default_collate(batch)


def _parted(count: int, parts: int) -> list[int]:
    """So many photographs in parts that are as even as can be."""
    return [len(range(part, count, parts)) for part in range(parts)]
