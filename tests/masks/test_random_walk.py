import numpy as np
import pytest
import torch

from tagseg.errors import BadInput
from tagseg.masks.random_walk import (
    directions,
    edge_affinity,
    edge_links,
    feature_links,
    path,
    random_walk,
    sources,
)


def dense_walk(scores: np.ndarray, links: np.ndarray, radius: float, beta: float, log_steps: int) -> np.ndarray:
    """The published way: the matrix of all pairs, its columns normalised, squared again and again."""
    _, height, width = scores.shape
    cells = np.arange(height * width).reshape(height, width)
    matrix = np.eye(height * width)
    for link, (dy, dx) in zip(links, directions(radius), strict=True):
        for y in range(height - dy):
            for x in range(max(0, -dx), width - max(0, dx)):
                one, other = cells[y, x], cells[y + dy, x + dx]
                matrix[one, other] = matrix[other, one] = float(link[y, x]) ** beta
    matrix /= matrix.sum(axis=0)
    for _ in range(log_steps):
        matrix = matrix @ matrix
    return (scores.reshape(len(scores), -1) @ matrix).reshape(scores.shape)


@pytest.mark.parametrize("size", [(9, 11), (1, 13), (3, 2), (1, 1), (12, 4)])
@pytest.mark.parametrize("log_steps", [0, 1, 3, 8])
def test_it_is_the_power_of_the_dense_matrix(size: tuple[int, int], log_steps: int):
    rng = np.random.default_rng(0)
    scores, edge = rng.random((2, *size)), rng.random(size)
    links = edge_links(edge, 5)
    wanted = dense_walk(scores, links, 5, 2.0, log_steps)
    for threads in (None, 1):
        found = random_walk(scores, links, 5, beta=2, log_steps=log_steps, threads=threads)
        np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_the_published_numbers_of_directions():
    assert len(directions(5)) == 34
    assert len(directions(10)) == 152
    rows, columns = sources(128, 128, 10)
    assert (rows.stop - rows.start) * (columns.stop - columns.start) == 13090


def test_paths_hug_the_straight_line():
    assert path((0, 3)) == ((0, 0), (0, 1), (0, 2), (0, 3))
    assert path((1, 1)) == ((0, 0), (0, 1), (1, 0), (1, 1))
    assert path((2, -1)) == ((0, -1), (0, 0), (1, -1), (1, 0), (2, -1), (2, 0))


def test_links_for_the_walk_are_the_affinities_of_training():
    edge = torch.rand(2, 1, 13, 17)
    affinity = edge_affinity(edge, 4)
    rows, columns = sources(13, 17, 4)
    for image in range(2):
        links = edge_links(edge[image, 0].numpy(), 4)
        np.testing.assert_allclose(links[:, rows, columns].reshape(len(links), -1), affinity[image].numpy())


def test_a_wall_is_not_crossed_and_no_score_leaves_its_range():
    edge = np.zeros((10, 21), np.float32)
    edge[:, 10] = 1
    scores = np.zeros((1, 10, 21), np.float32)
    scores[0, 2, 2] = 1
    walked = random_walk(scores, edge_links(edge, 5), 5, beta=10, log_steps=8)
    assert (walked[0, :, :10] > 0).all()
    assert np.abs(walked[0, :, 11:]).max() < 1e-6
    assert walked.max() <= 1


def test_cells_with_like_features_are_linked():
    features = np.zeros((3, 4, 8), np.float32)
    features[:, :, 4:] = 2
    links = feature_links(features, 2)
    right = directions(2).index((0, 1))
    assert links[right, 0, 0] == pytest.approx(1)
    assert links[right, 0, 3] == pytest.approx(np.exp(-2))
    assert links[right, 0, 7] == 0


def test_bad_input_is_told():
    links = edge_links(np.zeros((6, 6), np.float32), 5)
    with pytest.raises(BadInput, match="give"):
        random_walk(np.zeros((1, 6, 7)), links, 5, beta=1, log_steps=1)
    with pytest.raises(BadInput, match="finite"):
        random_walk(np.full((1, 6, 6), np.nan), links, 5, beta=1, log_steps=1)
    with pytest.raises(BadInput, match="too small"):
        sources(3, 30, 5)
