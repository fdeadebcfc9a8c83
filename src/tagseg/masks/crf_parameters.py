"""The published parameters of dense CRFs, by name."""

from __future__ import annotations

from typing import Literal, NamedTuple

from tagseg.errors import BadInput, nearest


class CRF(NamedTuple):
    """The parameters of a dense CRF: deviations in pixels and in colour levels of 0..255; weights; iterations.

    Of the unary energies they say whether scores or only the strongest label of every pixel count, and how sure such a
    label is taken to be (`refine_crf`, `crf_from_labels`).
    """

    gaussian_xy: float
    gaussian_weight: float
    bilateral_xy: float
    bilateral_rgb: float
    bilateral_weight: float
    iterations: int = 10
    unary: Literal["scores", "labels"] = "scores"
    gt_prob: float = 0.7


CRFS = {
    "psa": CRF(3, 3, 80, 13, 10),  # Ahn and Kwak, CVPR 2018; also AEFT and 1-stage-wseg
    "irn-label": CRF(3, 3, 50, 5, 10, unary="labels"),  # Ahn et al., CVPR 2019; also AFA's utility
    "deeplab": CRF(1, 3, 67, 3, 4),  # DeepLab v2 as ported to PyTorch; also BECO, KTSE, CLIP-ES, MoRe, ExCEL
    "deeplab-oaa": CRF(3, 3, 121, 5, 4),  # the LargeFOV model of OAA
    "fma": CRF(2, 2, 65, 3, 4),  # FMA-WSSS
    "toco": CRF(1, 1, 121, 5, 4),  # segmentation of ToCo, DuPL, MCC, SeCo
    "toco-cam": CRF(3, 3, 36, 3, 4),  # class maps of ToCo
    "afa": CRF(3, 3, 64, 5, 4),  # segmentation of AFA and WeCLIP
    "mctformer": CRF(4, 3, 83, 5, 3),
    "weaktr-label": CRF(4, 3, 83, 5, 3, unary="labels"),  # class maps of WeakTr on VOC
    "weakclip": CRF(3, 3, 83, 5, 3),  # also segmentation of WeakTr on VOC
}


def find_crf(name: str) -> CRF:
    """Returns the published parameters called `name`.

    Raises:
        BadInput: there are none of that name.
    """
    if name not in CRFS:
        raise BadInput(f"CRF '{name}' does not exist{nearest(name, list(CRFS)) or '.'} Known: {', '.join(CRFS)}.")
    return CRFS[name]
