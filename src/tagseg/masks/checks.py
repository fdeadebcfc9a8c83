"""What every refinement checks before it starts."""

from __future__ import annotations

import numpy as np

from tagseg.errors import BadInput


def check_scores(image: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the image as `(H, W, 3)` uint8 and scores `(L, H, W)` as float32, if they can be refined.

    Raises:
        BadInput: another size, number of axes, or type, or a score that is not a number.
    """
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=2)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise BadInput(
            f"the image must be (H, W, 3) or (H, W) uint8, and is {image.shape} {image.dtype}; "
            "read it with tagseg.data.images.read_image."
        )
    if scores.ndim != 3 or scores.shape[1:] != image.shape[:2]:
        raise BadInput(
            f"the scores are {scores.shape} and the image {image.shape[:2]}; resize them to (K, H, W) of the image."
        )
    if not len(scores):
        raise BadInput("there are no scores: give one channel for the background and one for every class.")
    scores = np.asarray(scores, dtype=np.float32)
    if not np.isfinite(scores).all():
        raise BadInput(f"{int((~np.isfinite(scores)).sum())} scores are not finite numbers; mend the map they are of.")
    return image, scores
