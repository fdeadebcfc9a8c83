import numpy as np
import pytest

from tagseg.data.geometry import Window, paste, view_of
from tagseg.data.views import flip, random_crop, random_view, resize, whole
from tagseg.grid import Grid

CORNERS = [True, False]


def pattern(grid: tuple[int, int], size: tuple[int, int], corners: bool) -> np.ndarray:
    """A plane over the photograph, `1 + 2 x + 3 y` at its pixels' place in 0..1: bilinear sampling gives it exactly."""
    places = []
    for cells, side in zip(grid, size, strict=True):
        numbers = np.arange(cells)
        pixels = numbers * (side - 1) / (cells - 1) if corners else (numbers + 0.5) * side / cells - 0.5
        places.append((pixels + 0.5) / side)
    y, x = np.meshgrid(*places, indexing="ij")
    return (1 + 2 * x + 3 * y)[None].astype(np.float32)


@pytest.mark.parametrize("corners", CORNERS)
@pytest.mark.parametrize("flipped", [False, True])
def test_the_whole_photograph_comes_back_as_it_was(corners: bool, flipped: bool):
    maps = np.random.default_rng(0).random((3, 7, 9)).astype(np.float32)
    window = Window((97, 129), (0, 0, 129, 97), flipped)
    back, inside = paste(maps[..., ::-1] if flipped else maps, window, (7, 9), Grid(16, corners))
    np.testing.assert_allclose(back, maps, atol=1e-5)
    assert inside.all()
    np.testing.assert_allclose(
        view_of(back, window, (7, 9), Grid(16, corners)), maps[..., ::-1] if flipped else maps, atol=1e-5
    )


@pytest.mark.parametrize("flipped", [False, True])
def test_a_crop_on_the_grid_comes_back_exactly(flipped: bool):
    maps = np.random.default_rng(0).random((2, 9, 9)).astype(np.float32)  # of a photograph of 129 pixels, stride 16
    seen = maps[:, 2:7, 3:8]
    window = Window((129, 129), (48, 32, 48 + 65, 32 + 65), flipped)
    back, inside = paste(seen[..., ::-1] if flipped else seen, window, (9, 9), Grid(16, corners=True))
    expected = np.zeros((9, 9), dtype=bool)
    expected[2:7, 3:8] = True
    np.testing.assert_array_equal(inside, expected)
    np.testing.assert_allclose(back[:, 2:7, 3:8], seen, atol=1e-5)
    assert not back[:, ~inside].any()


@pytest.mark.parametrize("corners", CORNERS)
@pytest.mark.parametrize("seed", range(8))
def test_any_view_of_a_pattern_returns_it(corners: bool, seed: int):
    """What a network would see of a plane in a random view, pasted back, is the plane wherever the view was."""
    rng = np.random.default_rng(seed)
    photo = np.zeros((int(rng.integers(60, 140)), int(rng.integers(60, 140)), 3), np.uint8)
    view = random_view(whole(photo), 97 if corners else 96, (0.8, 1.6), rng, np.zeros(3, np.uint8))
    fine = pattern((400, 400), view.size, corners)
    grid = (25, 25)
    seen = view_of(fine, view.window, grid, Grid(16, corners))
    known = view_of(np.ones_like(fine), view.window, grid, Grid(16, corners))[0] > 0
    back, inside = paste(seen, view.window, (20, 24), Grid(16, corners))
    sure, _ = paste(known[None].astype(np.float32), view.window, (20, 24), Grid(16, corners))
    sure = inside & (sure[0] > 0.999)  # bilinear weights reach over the rim of the photograph
    assert sure.sum() > 100
    expected = pattern((20, 24), view.size, corners)
    rim = 2 * 5 / min(view.size)  # within a cell of the window's own rim values are held, not extrapolated
    assert np.abs(back - expected)[0][sure].max() < rim


def test_pixels_of_a_view():
    """A map looked at pixel by pixel lies on the photograph's own pixels."""
    columns = np.arange(64, dtype=np.float32)[None, None].repeat(48, axis=1)
    image = np.repeat(columns[0, ..., None], 3, axis=2).astype(np.uint8)
    view = flip(random_crop(whole(image), (32, 32), np.random.default_rng(1), np.zeros(3, np.uint8)))
    seen = view_of(columns, view.window, (32, 32), Grid(16, corners=True), pixels=True)[0]
    np.testing.assert_allclose(seen, view.image[..., 0], atol=1e-4)


def test_padding_has_no_map():
    view = random_crop(
        whole(np.zeros((20, 30, 3), np.uint8)), (40, 40), np.random.default_rng(0), np.zeros(3, np.uint8)
    )
    seen = view_of(np.ones((1, 2, 3), np.float32), view.window, (40, 40), Grid(16, corners=True), pixels=True)[0]
    assert (seen > 0.5).sum() == 20 * 30


def test_windows_as_rows():
    view = flip(resize(whole(np.zeros((20, 30, 3), np.uint8)), (10, 15)))
    assert Window.from_row(view.window.row()) == view.window == ((10, 15), (0, 0, 15, 10), True)


def test_one_cell():
    window = Window((16, 16), (0, 0, 16, 16), flipped=False)
    back, inside = paste(np.full((1, 1, 1), 4.0), window, (1, 1), Grid(16, corners=True))
    assert back.item() == 4
    assert inside.all()
