"""SIPE against its published code (chenqi1126/SIPE, commit e0c6a3b, MIT licence).

`data/sipe.npz` is what the functions of its `resnet50_SIPE` make of random maps of 4 classes and random features, in
training, where a quarter of the places are padding, and afterwards.
"""

from pathlib import Path

import numpy as np
import torch

from tagseg.methods.sipe import EPSILON, prototype_maps, structure_seeds, with_background
from tests.parity.golden import assert_close

with np.load(Path(__file__).parent / "data" / "sipe.npz") as arrays:
    REFERENCE = {key: torch.from_numpy(arrays[key]) for key in arrays}


def test_consistency():
    r = REFERENCE
    maps, hierarchical = (r[key].clone().requires_grad_() for key in ("maps", "hierarchical"))
    general = with_background(maps) * r["valid"]
    seeds = structure_seeds(general.detach(), r["features"]) * r["valid"]
    specific = prototype_maps(seeds, hierarchical)
    loss = (general - specific / (specific.amax(dim=(2, 3), keepdim=True) + EPSILON)).abs().mean()
    assert_close(general.detach().numpy(), r["general"].numpy())
    assert_close(seeds.numpy(), r["seeds"].numpy())
    assert_close(specific.detach().numpy(), r["specific"].numpy())
    assert_close(loss.detach().numpy()[None], r["loss"].numpy()[None])
    for found, key in zip(torch.autograd.grad(loss, [maps, hierarchical]), ("maps", "hierarchical"), strict=True):
        assert_close(found.numpy(), r[f"grad_{key}"].numpy(), 1e-4)


def test_maps_afterwards_need_no_tags():
    r = REFERENCE
    specific = prototype_maps(structure_seeds(with_background(r["maps"]), r["hierarchical"]), r["hierarchical"])
    assert_close((specific * r["label"]).numpy(), r["specific_afterwards"].numpy())
    assert (specific[r["label"].expand_as(specific) == 0] > 0).any()
