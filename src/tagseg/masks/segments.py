"""Segments that somebody else cut photographs into, such as those of SAM, and the classes they take from masks.

Chen et al., "Segment Anything Model (SAM) Enhanced Pseudo Labels for Weakly Supervised Semantic Segmentation", 2023.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from tagseg.errors import BadInput, brief
from tagseg.run_lengths import decode_runs

OF_SEGMENT, OF_LABEL = 0.5, 0.85  # shares that the overlap must exceed


def label_segments(
    labels: np.ndarray, segments: Iterable[np.ndarray], of_segment: float = OF_SEGMENT, of_label: float = OF_LABEL
) -> np.ndarray:
    """Gives every segment the class that it overlaps most, and paints it, large segments before small ones.

    A segment is kept if the overlap is more than `of_segment` of the segment, or more than `of_label` of all that has
    the label; a class that no segment keeps stays as it is.

    Args:
        labels: `(H, W)` integers, 0 background.
        segments: `(H, W)` bool each; they may overlap and leave gaps.

    Returns:
        `(H, W)` of the same type.
    """
    areas = np.bincount(labels.ravel())
    kept: list[tuple[int, np.ndarray, int]] = []
    for segment in segments:
        size = int(segment.sum())
        inside = np.bincount(labels[segment], minlength=len(areas))
        inside[0] = 0
        label = int(inside.argmax())
        overlap = int(inside[label])
        if label and (overlap > of_segment * size or overlap > of_label * areas[label]):
            kept.append((size, segment, label))
    found = np.where(np.isin(labels, [label for _, _, label in kept]), 0, labels)
    for _, segment, label in sorted(kept, key=lambda item: -item[0]):
        found[segment] = label
    return found.astype(labels.dtype)


def refine_by_segments(scores: np.ndarray, segments: Iterable[np.ndarray]) -> np.ndarray:
    """Returns scores of 1 and 0 of the labels that segments take. `(K + 1, H, W) -> (K + 1, H, W)` float32."""
    labels = label_segments(scores.argmax(axis=0), segments)
    return (labels == np.arange(len(scores)).reshape(-1, 1, 1)).astype(np.float32)


def read_segments(folder: Path, name: str, size: tuple[int, ...]) -> list[np.ndarray]:
    """Reads the segments of a photograph.

    Args:
        folder: holds `NAME.png`, whose values are the numbers of segments (8 or 16 bits, 0 for none), or `NAME.json`,
            a list of objects with a `segmentation` in COCO's run lengths, as SAM's generator of masks writes it.
        name: of the photograph.
        size: `(H, W)` of the photograph.

    Returns:
        a list of `(H, W)` bool.

    Raises:
        BadInput: there is no such file, it cannot be read, or it is of another size.
    """
    png, text = folder / f"{name}.png", folder / f"{name}.json"
    if png.is_file():
        try:
            with Image.open(png, formats=("PNG",)) as image:
                numbers = np.asarray(image)
        except Exception as error:  # whatever a damaged file makes Pillow stumble over
            raise BadInput(f"{png}: these segments cannot be read ({brief(error)}).") from error
        if numbers.ndim != 2:
            raise BadInput(f"{png}: segments are one number per pixel, this has {numbers.shape}; save it as 16 bits.")
        _check_size(png, numbers.shape, size)
        return [numbers == number for number in np.unique(numbers) if number]
    if not text.is_file():
        raise BadInput(f"{folder}: there are no segments {name}.png or {name}.json; set masks.segments.folder.")
    try:
        found = json.loads(text.read_text(encoding="utf-8"))
        listed = found["annotations"] if isinstance(found, dict) else found
        masks = [decode_runs(entry["segmentation"]) for entry in listed]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{text}: this is no list of segments in COCO's run lengths ({brief(error)}).") from error
    for mask in masks:
        _check_size(text, mask.shape, size)
    return masks


def _check_size(path: Path, size: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    if tuple(size) != tuple(wanted):
        raise BadInput(
            f"{path}: the segments have {size[1]} x {size[0]} pixels, their photograph {wanted[1]} x {wanted[0]}; "
            "cut the photograph at its own size."
        )
