import numpy as np
import pytest

from tagseg.data.views import flip, random_crop, random_view, resize, whole
from tagseg.labels import IGNORE

FILL = np.array([1, 2, 3], dtype=np.uint8)


def photograph(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Every pixel holds its own row and column; the mask its column."""
    image = np.stack([*np.mgrid[0:height, 0:width], np.full((height, width), 9)], axis=-1).astype(np.uint8)
    return image, image[..., 1]


@pytest.mark.parametrize("size", [(40, 50), (20, 50), (20, 21), (33, 33)])
@pytest.mark.parametrize("seed", range(4))
def test_a_window_can_be_pasted_back(size: tuple[int, int], seed: int):
    image, mask = photograph(*size)
    view = random_crop(whole(image, mask), (33, 33), np.random.default_rng(seed), FILL)
    x0, y0, x1, y1 = view.box
    assert (y1 - y0, x1 - x0) == view.image.shape[:2] == (33, 33)
    seen = 0
    for y in range(33):
        for x in range(33):
            inside = 0 <= y0 + y < size[0] and 0 <= x0 + x < size[1]
            assert view.image[y, x].tolist() == ([y0 + y, x0 + x, 9] if inside else FILL.tolist())
            assert view.mask[y, x] == (x0 + x if inside else IGNORE)
            seen += inside
    assert seen == min(33, size[0]) * min(33, size[1])


def test_flip_mirrors_image_and_mask_and_remembers():
    image, mask = photograph(4, 7)
    view = flip(whole(image, mask))
    np.testing.assert_array_equal(view.image, image[:, ::-1])
    np.testing.assert_array_equal(view.mask, mask[:, ::-1])
    assert view.flipped
    assert view.box == (0, 0, 7, 4)
    assert not flip(view).flipped


def test_resize_keeps_labels_and_agrees_with_the_image():
    image, mask = photograph(30, 45)
    view = resize(whole(image, mask), (61, 91))
    assert view.size == view.image.shape[:2] == view.mask.shape == (61, 91)
    assert set(np.unique(view.mask)) <= set(range(45))
    assert np.abs(view.image[..., 1].astype(int) - view.mask).max() <= 1


def test_random_views_differ_by_seed_only():
    view = whole(*photograph(30, 45))
    one, same, other = (random_view(view, 25, (0.8, 1.6), np.random.default_rng(s), FILL) for s in (1, 1, 2))
    np.testing.assert_array_equal(one.image, same.image)
    assert one.image.shape == (25, 25, 3)
    assert not np.array_equal(one.image, other.image)
