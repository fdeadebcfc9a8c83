"""How well a classifier finds the tags themselves."""

from __future__ import annotations

import numpy as np


def mean_average_precision(scores: np.ndarray, tags: np.ndarray) -> float:
    """Returns the mean over classes of the area under the precision-recall steps.

    Classes without a positive are left out.

    Args:
        scores: `(N, C)`; tags: `(N, C)` multi-hot.
    """
    found = []
    for score, tag in zip(scores.T, tags.T, strict=True):
        if tag.any():
            hits = tag[np.argsort(-score, kind="stable")] > 0
            precision = hits.cumsum() / np.arange(1, len(hits) + 1)
            found.append(precision[hits].mean())
    return float(np.mean(found)) if found else float("nan")
