"""The automatic choice of masks against that of segment-anything (commit dca509f, Apache-2.0).

`data/sam_automatic.json` is what its SamAutomaticMaskGenerator keeps, at its defaults but 7 points a side, of a 60 x 83
photograph, when its decoder is replaced with `sam_discs.discs`.
"""

import json
from pathlib import Path

import numpy as np

from tagseg.masks.sam import segments_of
from tests.parity.sam_discs import discs

REFERENCE = json.loads((Path(__file__).parent / "data" / "sam_automatic.json").read_text())


def test_the_same_masks_in_the_same_order():
    for batched in (True, False):
        found = segments_of(discs, (60, 83), points=7, batched=batched)
        assert [s.runs["counts"] for s in found] == [r["counts"] for r in REFERENCE]
        assert [s.area for s in found] == [r["area"] for r in REFERENCE]
        np.testing.assert_allclose([s.predicted_iou for s in found], [r["predicted_iou"] for r in REFERENCE], atol=1e-6)
        np.testing.assert_allclose([s.stability for s in found], [r["stability"] for r in REFERENCE], atol=1e-6)
    assert 20 < len(REFERENCE) < 7 * 7 * 3
