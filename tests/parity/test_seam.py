"""SEAM against its published code (YudeWang/SEAM, commit 3212261, MIT licence).

`data/seam.npz` is what its `resnet38_SEAM.Net` and its training loop make of random numbers: the maps that flow and the
refined ones, then the losses of two views of 5 classes, 33 x 40 pixels and three tenths of that.
"""

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from tagseg.grid import Grid
from tagseg.masks.rescaling import normalised
from tagseg.methods.seam import equivariance_losses, free_loss, winners_and_background
from tagseg.networks.pcm import PCM
from tests.parity.golden import assert_close

with np.load(Path(__file__).parent / "data" / "seam.npz") as arrays:
    REFERENCE = {key: torch.from_numpy(arrays[key]) for key in arrays}


def test_refined_maps():
    r = REFERENCE
    flowing = winners_and_background(r["maps"][:, 1:])  # channel 0 of the published maps is overwritten
    assert_close(flowing.numpy(), r["flowing"].numpy())
    module = PCM((6, 8), Grid(stride=4, corners=True), rectified=True)
    for layer, name in zip((*module.stages, module.embedding), ("conv4", "conv5", "embedding"), strict=True):
        layer.weight.data = r[f"weight_{name}"]
    refined = module(flowing, r["image"], [r["conv4"], r["conv5"]])
    assert_close(refined.detach().numpy(), r["refined"].numpy(), 1e-4)


def test_losses():
    r = REFERENCE
    leaves = {key: r[key].clone().requires_grad_() for key in ("full", "full_refined", "small", "small_refined")}
    tags, size = r["tags"], r["small"].shape[-2:]

    def scaled(maps: torch.Tensor) -> torch.Tensor:
        return F.interpolate(normalised(maps, "official"), size=size, mode="bilinear", align_corners=True)

    plain = [scaled(leaves[key])[:, 1:] for key in ("full", "small")]
    refined = [scaled(leaves[f"{key}_refined"]) for key in ("full", "small")]
    equal, cross = equivariance_losses(plain, refined, tags, 5, 0.2)
    assert_close(equal.detach().numpy()[None], r["equivariance"].numpy()[None])
    assert_close(cross.detach().numpy()[None], r["cross"].numpy()[None])
    full, small, *_ = torch.autograd.grad(equal, list(leaves.values()), retain_graph=True, allow_unused=True)[::2]
    assert_close(full.numpy(), r["grad_equivariance_full"].numpy())
    assert_close(small.numpy(), r["grad_equivariance_small"].numpy())
    full, small = torch.autograd.grad(cross, [leaves["full_refined"], leaves["small_refined"]])
    assert_close(full.numpy(), r["grad_cross_full_refined"].numpy())
    assert_close(small.numpy(), r["grad_cross_small_refined"].numpy())
    free = [free_loss(r[f"{key}_refined"][:, 1:] * tags[:, :, None, None]) for key in ("full", "small")]
    assert_close(torch.stack(free).numpy(), r["free"].numpy())


def test_the_free_quarter_is_of_the_photograph():
    maps, inside = torch.zeros(2, 1, 8, 8), torch.ones(2, 8, 8, dtype=torch.bool)
    maps[:, :, :6] = 1.0  # a class that fills the photograph, above padding
    inside[0, 6:] = False
    assert free_loss(maps, inside).item() == 0.5  # all of the first photograph's quarter, none of the second's
    assert free_loss(maps).item() == 0.0


def test_classes_that_no_image_has_need_not_be_there():
    torch.manual_seed(0)
    plain, refined = torch.rand(2, 2, 6, 5, 5), torch.rand(2, 2, 7, 5, 5)
    tags = torch.tensor([[1, 0, 0, 1, 0, 0], [0, 0, 0, 1, 0, 0]])
    whole = equivariance_losses(list(plain), list(refined), tags, 6, 0.5)
    few = [0, 3]
    part = equivariance_losses(
        list(plain[:, :, few]), list(refined[:, :, [0, *(c + 1 for c in few)]]), tags[:, few], 6, 0.5
    )
    torch.testing.assert_close(part, whole)
