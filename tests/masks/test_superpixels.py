import numpy as np

from tagseg.masks.superpixels import superpixel_mask, superpixel_scores, superpixels


def test_superpixels_follow_colours():
    image = np.zeros((40, 60, 3), np.uint8)
    image[:, 30:] = 200
    labels = superpixels(image, count=24)
    assert labels.shape == (40, 60)
    assert not set(labels[:, :29].flat) & set(labels[:, 31:].flat)


def test_every_superpixel_gets_its_mean_and_one_label():
    labels = np.array([[0, 0, 1], [0, 0, 1]])
    maps = np.array([[[1.0, 0.2, 0.0], [0.2, 0.2, 0.0]], [[0.0, 0.0, 0.5], [0.0, 0.0, 0.3]]], np.float32)
    means = superpixel_scores(maps, labels)
    assert np.allclose(means[0], [[0.4, 0.4, 0], [0.4, 0.4, 0]])
    assert superpixel_mask(maps, (3, 7), labels, 0.35).tolist() == [[4, 4, 8], [4, 4, 8]]
    assert superpixel_mask(maps, (3, 7), labels, 0.4 + 1e-3).tolist() == [[0, 0, 0], [0, 0, 0]]
    assert not superpixel_mask(np.zeros((0, 2, 3)), (), labels).any()
