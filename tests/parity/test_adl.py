"""ADL against its published layer, as clovaai/wsolevaluation has it (commit 96f4b88, MIT licence).

`data/adl.npz` is what `wsol/method/adl.py` makes of random features, behind a ReLU and signed, at two thresholds, when
it hides and when it stresses the strongest places; and the gradients of a sum of its outputs, weighed from 0 to 1.
"""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from tagseg.methods.adl import attention_map
from tests.parity.golden import assert_close

with np.load(Path(__file__).parent / "data" / "adl.npz") as arrays:
    REFERENCE = {key: arrays[key] for key in arrays}
CASES = list(product(("rectified", "signed"), ("hidden", "stressed"), (80, 90)))


@pytest.mark.parametrize(("name", "mode", "percent"), CASES)
def test_what_is_hidden_or_stressed(name: str, mode: str, percent: int):
    features = torch.from_numpy(REFERENCE[name]).requires_grad_()
    found = features * attention_map(features, mode == "hidden", percent / 100)
    weights = torch.linspace(0, 1, found.numel()).reshape(found.shape)
    key = f"{name}_{mode}_{percent}"
    assert_close(found.detach().numpy(), REFERENCE[key])
    assert_close(torch.autograd.grad((found * weights).sum(), features)[0].numpy(), REFERENCE[f"{key}_gradient"])
