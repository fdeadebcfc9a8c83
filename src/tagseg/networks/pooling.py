"""Pooling class maps to tag scores: what a classifier is asked decides where it looks."""

from __future__ import annotations

import math

import torch

from tagseg.settings import Pooling

TOP_SHARE = 0.2  # of the cells that "top" takes the mean of
SHARPNESS = 3.0  # of the log-sum-exp


def pooled(maps: torch.Tensor, kind: Pooling) -> torch.Tensor:
    """Returns tag scores of class maps. `(B, C, h, w) -> (B, C)`.

    "mean" (Zhou et al., CVPR 2016) asks for whole objects, "top", the mean of the strongest fifth of the cells, for
    what is sure, and "lse" (Pinheiro and Collobert, CVPR 2015) lies between the mean and the maximum.
    """
    cells = maps.flatten(2)
    if kind == "mean":
        return cells.mean(dim=2)
    if kind == "top":
        return cells.topk(max(1, round(TOP_SHARE * cells.shape[2])), dim=2).values.mean(dim=2)
    return (torch.logsumexp(SHARPNESS * cells.float(), dim=2) - math.log(cells.shape[2])) / SHARPNESS
