"""A frozen transformer that is shown photographs (see `tagseg.networks.features`), and the store of what it said."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from typing import Any, Generic, TypeVar

import numpy as np
import torch

from tagseg.cores import cpu_count, prefetch
from tagseg.data.dataset import Sample
from tagseg.data.feature_store import packed, unpacked
from tagseg.data.images import read_image
from tagseg.data.loading import normalise
from tagseg.data.views import resize, whole
from tagseg.grid import Grid
from tagseg.networks.backbone import Backbone
from tagseg.networks.features import LEVELS, Levels
from tagseg.networks.precision import default_device, inference_autocast
from tagseg.networks.settings import EncoderSettings

Item = TypeVar("Item")
Result = TypeVar("Result")
Network = TypeVar("Network", bound=Backbone)


class Encoder(Generic[Network]):
    """A frozen network that is shown whole photographs, each brought to the same long side.

    Args:
        network: it gives `(B, D, h, w)` for `(B, 3, H, W)`; nothing of it is changed.
        side: the long side of a photograph, pixels.
    """

    def __init__(self, network: Network, side: int) -> None:
        self.device = default_device()
        self.network = network
        network.eval().to(self.device).to(memory_format=torch.channels_last)
        self.side = side
        self._lock = threading.Lock()

    @property
    def grid(self) -> Grid:
        """Returns where the cells of the features lie."""
        return self.network.grid

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Returns the size `(H, W)` at which a photograph of `height` x `width` pixels is seen.

        Either side is rounded to whole cells, so that it keeps its proportions to half a cell.
        """
        factor = self.side / max(height, width)
        return self.grid.fit(height * factor, width * factor)

    @torch.inference_mode()
    def __call__(self, photo: np.ndarray) -> np.ndarray:
        """Returns the features of a photograph `(H, W, 3)` uint8 of any size: `(D, h, w)` float32.

        Threads may call this at the same time.
        """
        pixels = normalise(resize(whole(photo), self.size(*photo.shape[:2])).image, self.network)[None].to(self.device)
        with ExitStack() as stack:
            if self.device.type != "cpu":
                stack.enter_context(self._lock)
            stack.enter_context(inference_autocast(self.device))
            return self.network(pixels.contiguous(memory_format=torch.channels_last))[0].float().cpu().numpy()


class LiveFeatures:
    """The features of photographs as a store of 8 bits would give them, computed whenever they are asked for.

    Args:
        encoder: computes them.
        samples: the photographs.
    """

    def __init__(self, encoder: Encoder[Any], samples: Sequence[Sample]) -> None:
        self.encoder = encoder
        self.photographs = {sample.name: sample.image for sample in samples}

    def __contains__(self, name: str) -> bool:
        return name in self.photographs

    def read(self, name: str) -> np.ndarray:
        """Returns the features of one photograph, `(D, h, w)` float32."""
        return unpacked(packed(self.encoder(read_image(self.photographs[name])), bits=8))


@lru_cache(maxsize=2)
def load_encoder(settings: EncoderSettings) -> Encoder[Levels]:
    """Returns the frozen transformer of these settings, which is made once.

    Its features are those of `tagseg.networks.features.Levels`.

    Raises:
        BadInput: as `Levels`.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)  # weights that are random are the same every time, as those of a file
        return Encoder(Levels(settings.name, settings.weights), settings.side)


def deepest(features: np.ndarray) -> np.ndarray:
    """Returns the last block's share of the features of all levels. `(L D, h, w) -> (D, h, w)`."""
    return features[-(len(features) // LEVELS) :]


def side_by_side(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int | None = None
) -> Iterator[Result]:
    """Yields `map(function, items)` in order, one item on each core, which is faster than all cores on one item.

    Args:
        threads: items at a time; None: one for each core.
    """
    count = threads or cpu_count()
    with _one_core_each():
        yield from prefetch(function, items, ahead=2 * count, threads=count)


@contextmanager
def _one_core_each() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
