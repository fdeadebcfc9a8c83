"""BECO against its published code (ShenghaiRong/BECO, commit 6a57bed).

`data/beco.npz` is what its `train_step` makes of four small photographs, with two networks of one 1x1 convolution over
4 x 4 pixels each: of nothing mixed, of everything mixed by the masks, and of everything mixed by what both networks are
sure of. Colours were left as they are, and of several classes the lowest were chosen.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tagseg.grid import Grid
from tagseg.segmentation import co_training
from tagseg.segmentation.co_training import CoTraining, mix_pairs
from tagseg.segmentation.deeplab import DeepLabPair
from tagseg.segmentation.settings import SegmentSettings
from tests.parity.golden import assert_close

with np.load(Path(__file__).parent / "data" / "beco.npz") as arrays:
    REFERENCE = {key: torch.from_numpy(arrays[key]) for key in arrays}
ORDER = [0, 2, 1, 3]  # photographs beside each other, as the published batch has them in its halves
SETTINGS = SegmentSettings(network="beco", loss_stride=1)


class _Network(nn.Module):
    grid = Grid(4, corners=False)
    mean, std, head_name = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "aspp"

    def __init__(self, number: int) -> None:
        super().__init__()
        self.weight, self.bias = REFERENCE[f"weight{number}"], REFERENCE[f"bias{number}"]

    @property
    def backbone(self) -> "_Network":
        return self

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return F.conv2d(F.avg_pool2d(images, 4), self.weight, self.bias)

    def logits_at(self, images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        return self.grid.resize(self(images), size)


class _Lowest:
    """Random numbers that always mix, or never, and choose the lowest."""

    def __init__(self, number: float) -> None:
        self.number = number

    def random(self) -> float:
        return self.number

    def choice(self, members: list[int], count: int, replace: bool) -> np.ndarray:
        assert not replace
        return np.sort(members)[:count]


@pytest.mark.parametrize("case", ["plain", "first", "online"])
def test_what_is_mixed_and_its_loss(case: str, monkeypatch: pytest.MonkeyPatch):
    r, stubs = REFERENCE, [_Network(0), _Network(1)]
    module = CoTraining(DeepLabPair(*stubs), SETTINGS, steps=100)  # type: ignore[arg-type]
    doubted = torch.where(r["masks"] > 0, r["labels"].long(), 255)
    masks = r["labels"].long() if case == "first" else doubted
    images, masks = r["images"][ORDER], masks[ORDER]
    online = None
    if case == "online":
        online = module.sure_labels(images)
        torch.testing.assert_close(online, r["sure"].long()[ORDER])
    rngs: list[Any] = [_Lowest(1.0 if case == "plain" else 0.0)] * 4
    shown = mix_pairs(images, masks, torch.ones_like(masks, dtype=torch.bool), online, 0.5, rngs)
    if case != "plain":
        known = r[f"{case}_masks"] > 0
        torch.testing.assert_close(shown.masks != 255, known)
        torch.testing.assert_close(shown.masks[known], r[f"{case}_labels"].long()[known])
        torch.testing.assert_close(shown.border, r[f"{case}_border"] > 0)
    if case == "online":
        torch.testing.assert_close(shown.images, r["online_images"])
    assert_close(module.loss(shown.images, shown).numpy()[None], r[f"{case}_loss"].numpy()[None])
    if case == "online":  # the whole step says the same, once it has learnt enough
        monkeypatch.setattr(co_training, "distort_strongly", lambda pixels, rng: pixels)
        monkeypatch.setattr(co_training, "to_pixels", lambda mixed, statistics: mixed)
        monkeypatch.setattr(co_training, "normalise", lambda pixels, statistics: pixels)
        monkeypatch.setattr(np.random, "default_rng", lambda seed: _Lowest(0.0))
        monkeypatch.setattr(CoTraining, "global_step", 2)
        monkeypatch.setattr(CoTraining, "log", lambda *_: None)
        inside = torch.tensor([0, 24, 0, 32]).expand(4, 4)
        batch = {"image": images, "mask": masks, "inside": inside, "seed": torch.zeros(4, dtype=torch.int64)}
        step = module.training_step({name: values.unflatten(0, (2, 2)) for name, values in batch.items()}, 0)
        assert_close(step.numpy()[None], r["online_loss"].numpy()[None])
