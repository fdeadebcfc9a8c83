"""OAA: the loss of the public port, and fusion by maximum."""

from pathlib import Path

import numpy as np
import torch

from tagseg.data.accumulator import Accumulator
from tagseg.data.geometry import Window
from tagseg.grid import Grid
from tagseg.methods.oaa_losses import hybrid_loss
from tests.parity.golden import assert_close, golden


def test_hybrid_loss():
    arrays = golden("oaa_hybrid_loss")
    logits = torch.from_numpy(arrays["logits"]).requires_grad_()
    loss = hybrid_loss(logits, torch.from_numpy(arrays["accumulated"]), compat="official")
    loss.backward()
    assert_close(loss.detach().numpy(), arrays["loss"])
    assert_close(logits.grad.numpy(), arrays["grad_logits"])


def test_accumulation(tmp_path: Path):
    """Stored in 8 bits, which is all that may be missing."""
    arrays = golden("oaa_accumulation_max")
    times, height, width = arrays["class_maps"].shape
    accumulated = Accumulator(tmp_path, [(0,)], [(height, width)], Grid(1, corners=False))
    whole = Window((height, width), (0, 0, width, height), flipped=False)
    for number, raw in enumerate(arrays["class_maps"], start=1):
        accumulated.begin()
        accumulated.add(0, 0, raw, whole)
        accumulated.finish(number)
    found = accumulated.maps(0, times)[0]
    assert np.abs(found - arrays["accumulated"]).max() <= 0.5 / 255 + 1e-6
