"""Masks of single objects, and polygons around them that give the very same pixels back to whoever fills them.

There are two ways to count: a polygon of "corners" runs along the edges of pixels, as COCO's tools fill it; one of
"centres" through the outermost pixels themselves, as OpenCV fills it, and with it YOLO's and Roboflow's tools. Holes
are joined to the outline by a line that runs there and back, for most formats know no holes.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

from tagseg.labels import IGNORE


def objects(mask: np.ndarray, instances: bool) -> Iterator[tuple[int, np.ndarray]]:
    """Yields the number in a mask and the `(H, W)` bool of every class in it, that of unknown pixels last.

    Args:
        mask: `(H, W)` uint8, class c at c + 1, 255 unknown.
        instances: one for each part that hangs together (also across corners), the largest first, instead of one for
            each class; unknown pixels stay one.
    """
    for value in np.unique(mask):
        if value == 0:
            continue
        where = mask == value
        if not instances or value == IGNORE:
            yield int(value), where
            continue
        count, numbers, facts, _ = cv2.connectedComponentsWithStats(where.astype(np.uint8), connectivity=8)
        for number in sorted(range(1, count), key=lambda n: -facts[n, cv2.CC_STAT_AREA]):
            yield int(value), numbers == number


def box_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Returns x, y, width, height of the box around a mask that is not empty, in pixels."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1] - columns[0] + 1), int(rows[-1] - rows[0] + 1)


def corner_polygons(mask: np.ndarray) -> list[np.ndarray]:
    """Returns polygons along the edges of pixels, `(n, 2)` x and y each: one for each part that hangs together.

    Filled by the even-odd rule, they are the mask again.
    """
    found = []
    count, numbers, facts, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    for number in range(1, count):
        x, y, width, height, _ = facts[number]
        loops = _loops(numbers[y : y + height, x : x + width] == number)
        outline = max(loops, key=lambda loop: abs(_area(loop)))
        found.append(_joined([outline, *(loop for loop in loops if loop is not outline)]) + np.array([x, y]))
    return found


def centre_polygons(mask: np.ndarray) -> list[np.ndarray]:
    """Returns polygons through the outermost pixels, `(n, 2)` x and y each: one for each part that hangs together.

    Parts that meet at corners hang together. Filled by `cv2.fillPoly`, they are the mask again. None has fewer than
    three points; those of a single pixel are the same.
    """
    contours, tree = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    found = []
    for number, contour in enumerate(contours):
        if tree[0, number, 3] >= 0:
            continue  # a hole
        holes = [contours[n] for n in range(len(contours)) if tree[0, n, 3] == number]
        polygon = _joined([part[:, 0].astype(np.int64) for part in (contour, *holes)])
        found.append(np.concatenate([polygon, np.repeat(polygon[-1:], max(0, 3 - len(polygon)), axis=0)]))
    return found


def fill_centres(polygons: list[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """Returns the `(H, W)` bool inside any of the polygons through pixels, holes left out."""
    canvas = np.zeros(size, dtype=np.uint8)
    for polygon in polygons:
        cv2.fillPoly(canvas, [np.round(polygon).astype(np.int32)], 1)
    return canvas.astype(bool)


def fill_corners(polygons: list[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """Returns the `(H, W)` bool inside any of the polygons along the edges of pixels, holes left out."""
    from skimage import draw

    canvas = np.zeros(size, dtype=bool)
    for polygon in polygons:
        canvas[draw.polygon(polygon[:, 1] - 0.5, polygon[:, 0] - 0.5, size)] = True
    return canvas


def _loops(mask: np.ndarray) -> list[np.ndarray]:
    """Closed ways along the edges of the pixels of a mask, which lies to their right; all corners, `(n, 2)` each."""
    padded = np.pad(mask, 1).astype(np.int8)
    down, right = np.diff(padded, axis=0)[:, 1:-1], np.diff(padded, axis=1)[1:-1]
    ways: dict[tuple[int, int], list[tuple[int, int]]] = {}

    def add(x: np.ndarray, y: np.ndarray, dx: int, dy: int) -> None:
        for start in zip(x.tolist(), y.tolist(), strict=True):
            ways.setdefault(start, []).append((dx, dy))

    y, x = np.nonzero(down == 1)  # the mask begins below
    add(x, y, 1, 0)
    y, x = np.nonzero(down == -1)
    add(x + 1, y, -1, 0)
    y, x = np.nonzero(right == 1)  # and here to the right
    add(x, y + 1, 0, -1)
    y, x = np.nonzero(right == -1)
    add(x, y, 0, 1)
    loops = []
    while ways:
        start = next(iter(ways))
        corner, step, loop = start, ways[start][0], []
        while corner in ways:
            turned = (-step[1], step[0])  # to the right, where two ways meet: so parts that meet at corners stay apart
            step = turned if turned in ways[corner] else ways[corner][0]
            ways[corner].remove(step)
            if not ways[corner]:
                del ways[corner]
            loop.append(corner)
            corner = (corner[0] + step[0], corner[1] + step[1])
            if corner == start:
                break
        loops.append(np.array(loop))
    return loops


def _area(loop: np.ndarray) -> float:
    following = np.roll(loop, -1, axis=0)
    return 0.5 * float(np.sum(loop[:, 0] * following[:, 1] - following[:, 0] * loop[:, 1]))


def _joined(loops: list[np.ndarray]) -> np.ndarray:
    """One way through an outline and its holes, less the points on straight lines.

    A hole is joined to what the way from its leftmost point to the left meets first: the outline, or a hole that begins
    farther left and is joined already. So no line crosses anything, and none leaves what it lies in.
    """
    if len(loops) == 1:
        return _bends(loops[0])
    points: list[tuple[int, int]] = []
    following: list[int] = []
    places: dict[tuple[int, int], int] = {}
    for loop in [loops[0], *sorted(loops[1:], key=lambda loop: tuple(loop[np.lexsort(loop.T[::-1])[0]]))]:
        first, begun = np.lexsort(loop.T[::-1])[0], len(points)
        mine = list(map(tuple, np.roll(loop, -first, axis=0).tolist()))
        points += mine
        following += [*range(begun + 1, begun + len(mine)), begun]
        if begun:
            x, y = mine[0]
            while (x, y) not in places:
                x -= 1
            met = places[x, y]
            # there, around the hole, and back
            points += [mine[0], (x, y)]
            following += [begun + len(mine) + 1, following[met]]
            following[begun + len(mine) - 1] = begun + len(mine)
            following[met] = begun
        for place, point in enumerate(mine, start=begun):
            places.setdefault(point, place)
    way, place = [points[0]], following[0]
    while place:
        way.append(points[place])
        place = following[place]
    return _bends(np.array(way))


def _bends(way: np.ndarray) -> np.ndarray:
    """The points of a closed way at which it goes elsewhere than straight on."""
    way = way[(way != np.roll(way, 1, axis=0)).any(axis=1) | (np.arange(len(way)) == 0)]
    before, after = way - np.roll(way, 1, axis=0), np.roll(way, -1, axis=0) - way
    crooked = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    back = (before * after).sum(axis=1) < 0
    kept = way[crooked | back]
    return kept if len(kept) else way[:1]
