"""Which parts of the photographs of a data set excite a channel most?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from tagseg.attribution.capture import hooked
from tagseg.attribution.gap import Decision, Recorder
from tagseg.attribution.hierarchy import field_box
from tagseg.attribution.layers import find_layers
from tagseg.cores import prefetch
from tagseg.data.images import read_image
from tagseg.errors import BadInput
from tagseg.explaining.classifiers import Classifier
from tagseg.explaining.patches import Channel, cut


@dataclass
class Excitations:
    """The highest values of every channel of every layer over photographs.

    Attributes:
        paths: the photographs.
        values, places: per level `(D, count)`: from high to low, the value, and photograph, row and column of it as one
            number (see `at`).
        grids: (h, w) per level.
    """

    paths: list[Path]
    values: list[np.ndarray]
    places: list[np.ndarray]
    grids: list[tuple[int, int]]

    def at(self, level: int, channel: int) -> list[tuple[int, int, int, float]]:
        """Returns photograph, row, column and value of the places that excite a channel, high to low.

        There are none where the channel never fires.
        """
        height, width = self.grids[level]
        found = []
        for place, value in zip(self.places[level][channel], self.values[level][channel], strict=True):
            if value > 0:
                photograph, cell = divmod(int(place), height * width)
                found.append((photograph, *divmod(cell, width), float(value)))
        return found


def find_excitations(
    classifier: Classifier,
    layers: str | Sequence[str],
    paths: Sequence[Path],
    count: int = 6,
    advance: Callable[[int], None] = lambda _: None,
) -> Excitations:
    """Looks through photographs for what excites channels, one forward pass each.

    A photograph counts once for every channel.
    """
    if not paths:
        raise BadInput("no photographs to look through; name a folder that holds some.")
    values: list[torch.Tensor] = []
    places: list[torch.Tensor] = []
    grids: list[tuple[int, int]] = []
    model, found = classifier.model, None
    kept: dict[int, torch.Tensor] = {}

    def keep(number: int, output: torch.Tensor) -> torch.Tensor:
        kept[number] = output.clone()  # the network may write over it
        return output

    with torch.no_grad():
        for photograph, photo in enumerate(prefetch(read_image, list(paths))):
            images = classifier.images([photo])
            found = found or find_layers(model, layers if isinstance(layers, str) else list(layers), images)
            with hooked(found, keep):
                model(images)
            for level, layer in enumerate(found):
                grid = layer.grid(kept[level], (images.shape[2], images.shape[3]))[0].float()
                highest, cell = grid.flatten(1).max(dim=1)
                place = cell + photograph * grid[0].numel()
                if photograph == 0:
                    values.append(highest[:, None])
                    places.append(place[:, None])
                    grids.append((grid.shape[1], grid.shape[2]))
                    continue
                joined = torch.cat([values[level], highest[:, None]], dim=1)
                values[level], order = joined.topk(min(count, joined.shape[1]), dim=1)
                places[level] = torch.cat([places[level], place[:, None]], dim=1).gather(1, order)
            advance(photograph + 1)
    return Excitations(list(paths), [v.cpu().numpy() for v in values], [p.cpu().numpy() for p in places], grids)


def exciting_patches(
    classifier: Classifier, recorder: Recorder, excitations: Excitations, channels: Sequence[Channel]
) -> dict[Channel, list[np.ndarray]]:
    """Returns the patches `(h, w, 3)` uint8 that excite each channel most.

    They are cut to what the peaks make use of.
    """
    wanted: dict[int, list[tuple[Channel, int, Decision]]] = {}
    for level, channel in dict.fromkeys(channels):
        for rank, (photograph, y, x, _) in enumerate(excitations.at(level, channel)):
            decision = Decision(level, channel, y, x)
            wanted.setdefault(photograph, []).append(((level, channel), rank, decision))
    found: dict[Channel, dict[int, np.ndarray]] = {channel: {} for channel in channels}
    for photograph, of_photograph in wanted.items():
        photo = read_image(excitations.paths[photograph])
        recording = recorder(classifier.images([photo]), guided=True)
        by_level: dict[int, list[tuple[Channel, int, Decision]]] = {}
        for entry in of_photograph:
            by_level.setdefault(entry[0][0], []).append(entry)
        for of_level in by_level.values():
            gradients = recording.pixel_gradients([decision for _, _, decision in of_level])
            for (wanted_by, rank, _), gradient in zip(of_level, gradients, strict=True):
                box = field_box(gradient.abs().amax(dim=0).cpu().numpy())
                found[wanted_by][rank] = cut(photo, box, recording.size)
    return {channel: [patches[rank] for rank in sorted(patches)] for channel, patches in found.items()}
