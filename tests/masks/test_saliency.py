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


def varint(number: int) -> bytes:
    return bytes([number]) if number < 128 else bytes([number & 127 | 128]) + varint(number >> 7)


def field(number: int, content: bytes | int) -> bytes:
    """One field of a protocol buffer."""
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def onnx_network() -> bytes:
    """`y = 1x1 convolution of x`, `(1, 3, 32, 32) -> (1, 1, 32, 32)`, in the least of an ONNX file."""

    def port(name: bytes, *shape: int) -> bytes:
        sizes = b"".join(field(1, field(1, n)) for n in shape)
        return field(1, name) + field(2, field(1, field(1, 1) + field(2, sizes)))

    weights = np.array([0.5, 0.2, -0.1], np.float32).tobytes()
    tensor = b"".join(field(1, n) for n in (1, 3, 1, 1)) + field(2, 1) + field(8, b"w") + field(9, weights)
    node = field(1, b"x") + field(1, b"w") + field(2, b"y") + field(4, b"Conv")
    graph = field(1, node) + field(2, b"g") + field(5, tensor)
    graph += field(11, port(b"x", 1, 3, 32, 32)) + field(12, port(b"y", 1, 1, 32, 32))
    return field(1, 7) + field(7, graph) + field(8, field(1, b"") + field(2, 11))


@pytest.mark.parametrize("kind", ["onnx", "pt2", "pt"])
def test_a_network_from_a_file(kind: str, tmp_path: Path):
    network, image = torch.nn.Conv2d(3, 1, 1, bias=False).eval(), torch.zeros(1, 3, 32, 32)
    network.weight.data = torch.tensor([0.5, 0.2, -0.1]).reshape(1, 3, 1, 1)
    path = tmp_path / f"network.{kind}"
    if kind == "onnx":
        path.write_bytes(onnx_network())
    elif kind == "pt2":
        torch.export.save(torch.export.export(network, (image,)), path)
    else:
        torch.jit.trace(network, image).save(str(path))
    photo = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    program = kind != "onnx"
    if program:
        with pytest.raises(BadInput, match="this file is a program"):
            load_saliency_network(path, side=32)
    saliency = load_saliency_network(path, side=32, program=program)(photo)
    pixels = (photo / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(saliency, 1 / (1 + np.exp(-pixels @ [0.5, 0.2, -0.1])), atol=1e-5)
    assert load_saliency_network(path, side=32, program=program)(photo[:20]).shape == (20, 32)


@pytest.mark.parametrize("name", ["network.onnx", "network.pt", "network.pt2"])
def test_a_damaged_network_is_told(name: str, tmp_path: Path):
    with pytest.raises(BadInput, match="no such"):
        load_saliency_network(tmp_path / name)
    (tmp_path / name).write_bytes(b"no network")
    with pytest.raises(BadInput, match="cannot be read"):
        load_saliency_network(tmp_path / name, program=True)


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
    saliency[:], maps[:] = 1, 0
    saliency[2, 3], maps[:, 2, 3], maps[0, 4, 4] = 0.05, 0.95, 0.95  # sure of both; sure of the class alone
    found = ignore_conflicts(labels, maps[:1], saliency)
    assert (found[2, 3], found[4, 4]) == (255, 3)
    with pytest.raises(BadInput, match="one size"):
        with_saliency_background(maps, saliency[1:])
