import numpy as np
import torch

from tagseg.masks.par import pixel_adaptive_refinement
from tests.parity.golden import assert_close, golden


def test_par_matches_the_published_code():
    case = golden("par")
    refined = pixel_adaptive_refinement(
        torch.from_numpy(case["images"]).float(),
        torch.from_numpy(case["scores"]).float(),
        iterations=int(case["iterations"]),
        dilations=tuple(int(d) for d in np.atleast_1d(case["dilations"])),
        normalised=False,
    )
    assert_close(refined.numpy(), case["output"])
