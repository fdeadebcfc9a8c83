import numpy as np
import pytest
import torch

from tagseg.masks.dense_energy import dense_energy
from tagseg.masks.permutohedral import Lattice, bilateral_features


def case(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (2, 3, 24, 20), generator=generator).float()
    probabilities = torch.randn(2, 4, 24, 20, generator=generator).softmax(dim=1).requires_grad_()
    valid = torch.ones(2, 24, 20)
    valid[1, 16:] = 0
    labels = torch.randint(0, 4, (2, 24, 20), generator=generator)
    labels[0, :6] = 255
    return images, probabilities, valid, labels


def test_loss_and_gradient_are_the_published_expressions():
    images, probabilities, valid, labels = case()
    loss = dense_energy(images, probabilities, valid, labels, weight=1e-3, sigma_xy=20, sigma_rgb=60, scale=1)
    loss.backward()
    p = probabilities.detach()
    gate = (valid - p.amax(dim=1)).clamp(min=0)
    gate[labels == 255] = 1
    total, gradients = 0.0, []
    for n in range(2):
        lattice = Lattice(bilateral_features(images[n].permute(1, 2, 0).numpy().astype(np.uint8), 20, 60))
        masses = p[n] * valid[n]
        filtered = torch.from_numpy(lattice.filter(masses.flatten(1).T.numpy())).T.reshape(4, 24, 20)
        total -= 1e-3 / 2 * float((masses * gate[n] * filtered).sum())
        gradients.append(-2e-3 / 2 * gate[n] * filtered * valid[n])
    assert loss.item() == pytest.approx(total, rel=1e-5)
    assert probabilities.grad is not None
    torch.testing.assert_close(probabilities.grad, torch.stack(gradients))
    assert (probabilities.grad[1, :, 16:] == 0).all()


def test_half_size_is_the_default_and_certainty_costs_nothing():
    images, probabilities, valid, labels = case()
    loss = dense_energy(images, probabilities, valid, labels)
    loss.backward()
    assert loss < 0
    assert probabilities.grad is not None
    assert torch.isfinite(probabilities.grad).all()
    certain = torch.zeros(2, 4, 24, 20)
    certain[:, 1] = 1
    assert dense_energy(images, certain, valid, torch.ones_like(labels)) == 0
    assert dense_energy(images, certain, torch.zeros_like(valid), torch.ones_like(labels)) == 0
