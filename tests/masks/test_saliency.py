from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from tagseg.errors import BadInput
from tagseg.masks.saliency import (
    ignore_conflicts,
    load_saliency_network,
    minimum_barrier_saliency,
    with_saliency_background,
)


def test_an_object_in_the_middle_is_salient():
    image = np.full((120, 160, 3), (40, 120, 60), np.uint8)
    cv2.circle(image, (80, 60), 25, (220, 40, 40), -1)
    saliency = minimum_barrier_saliency(image)
    assert saliency.shape == (120, 160)
    assert 0 <= saliency.min() <= saliency.max() <= 1
    assert saliency[60, 80] > 0.9
    assert saliency[5, 5] < 0.1


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (3, 2), (700, 5)])
def test_any_size_and_no_contrast_have_an_answer(size: tuple[int, int]):
    flat = minimum_barrier_saliency(np.full((*size, 3), 7, np.uint8))
    assert flat.shape == size
    assert np.isfinite(flat).all()


def test_a_torch_network_from_a_file(tmp_path: Path):
    network = torch.jit.trace(torch.nn.Conv2d(3, 1, 1), torch.zeros(1, 3, 32, 32))
    network.save(str(tmp_path / "net.pt"))
    saliency = load_saliency_network(tmp_path / "net.pt", side=32)(np.zeros((20, 40, 3), np.uint8))
    assert saliency.shape == (20, 40)
    assert 0 <= saliency.min() <= saliency.max() <= 1
    with pytest.raises(BadInput, match="no such"):
        load_saliency_network(tmp_path / "other.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"no network")
    with pytest.raises(BadInput, match="cannot be read"):
        load_saliency_network(tmp_path / "broken.onnx")
    (tmp_path / "broken.pt").write_bytes(b"no network")
    with pytest.raises(BadInput, match="cannot be read"):
        load_saliency_network(tmp_path / "broken.pt")


def test_what_is_not_salient_is_background_and_conflicts_are_ignored():
    maps = np.zeros((1, 10, 10), np.float32)
    maps[0, :5] = 0.95
    saliency = np.zeros((10, 10), np.float32)
    saliency[:5] = 1
    scores = with_saliency_background(maps, saliency)
    assert (scores.argmax(axis=0)[:5] == 1).all()
    labels = np.zeros((10, 10), np.uint8)
    labels[:5] = 3
    assert (ignore_conflicts(labels, maps, saliency) == labels).all()
    saliency[9] = 0.5
    assert (ignore_conflicts(labels, maps, saliency)[9] == 255).all()
    assert (ignore_conflicts(np.zeros_like(labels), maps, saliency) == 255).all()
    with pytest.raises(BadInput, match="one size"):
        with_saliency_background(maps, saliency[1:])
