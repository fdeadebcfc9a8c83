"""The class maps that a method starts from, before it becomes more than a classifier."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

import lightning.pytorch as lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback

from tagseg.data.dataset import Sample, at_even_steps, multi_hot
from tagseg.data.images import read_image
from tagseg.data.loading import normalise
from tagseg.data.map_store import MapStore, StoredMaps
from tagseg.data.views import resize, whole
from tagseg.errors import brief
from tagseg.masks.rescaling import over_maximum
from tagseg.methods.base import Method
from tagseg.networks.precision import inference_autocast

LOOKED_AT = 100  # photographs
FOLDER = "start"


def looked_at(samples: Sequence[Sample]) -> list[Sample]:
    """Returns the photographs that are looked at: tagged ones, at even steps."""
    return at_even_steps([s for s in samples if s.tags], LOOKED_AT)


@torch.no_grad()
def look(method: Method, sample: Sample, side: int) -> tuple[StoredMaps, np.ndarray | None]:
    """Returns what a method starts from on a photograph, as its network is now.

    Args:
        method: in evaluation.
        sample: a photograph with tags.
        side: its long side as the network sees it, pixels.

    Returns:
        the maps of its tags; and where the method teaches that no class is, `(h, w)` in [0, 1], or None.
    """
    photo, device, grid = read_image(sample.image), method.device, method.backbone.grid
    height, width = photo.shape[:2]
    size = grid.fit(*(n * side / max(height, width) for n in (height, width)))
    pixels = normalise(resize(whole(photo), size).image, method.backbone)[None].to(device)
    tags = torch.from_numpy(multi_hot(sample.tags, len(method.classes)))[None].to(pixels)
    with inference_autocast(device):
        maps, logits = method.starting_maps(pixels)
        background = method.background(pixels, tags)
    maps = over_maximum(maps[:, list(sample.tags)].float().relu())
    found = method.probabilities(logits[0].float()).cpu().numpy()
    empty = None if background is None else background[0, 0].float().cpu().numpy()
    return StoredMaps(sample.tags, maps[0].cpu().numpy(), found, grid), empty


class KeepStart(Callback):
    """Keeps the class maps of a method at the end of its warm-up, for the premise check; see `MapStore`.

    A training that begins anew takes away what another one left. One that goes on after its warm-up changes nothing.

    Args:
        folder: of the maps; no stage's own, so that nothing is trained again for them.
        samples: photographs of the training.
        side: their long side, pixels.
    """

    def __init__(self, folder: Path, samples: Sequence[Sample], side: int) -> None:
        self.folder, self.samples, self.side = folder, looked_at(samples), side

    def on_train_epoch_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Looks, if the warm-up is just over. What cannot be looked at fails no training."""
        assert isinstance(module, Method)
        if not trainer.is_global_zero:
            return
        if trainer.current_epoch == 0:
            shutil.rmtree(self.folder, ignore_errors=True)
        if not 0 < module.settings.warmup_epochs == trainer.current_epoch:
            return
        modes = {part: part.training for part in module.modules()}
        try:
            module.eval()
            found = {sample.name: look(module, sample, self.side)[0] for sample in self.samples}
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir()
            MapStore(self.folder).write(found)
        except Exception as error:
            logging.getLogger(__name__).warning("what the method starts from could not be kept (%s)", brief(error))
        finally:
            for part, training in modes.items():
                part.training = training
