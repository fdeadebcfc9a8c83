"""PSA: Ahn and Kwak, "Learning Pixel-level Semantic Affinity with Image-level Supervision for Weakly Supervised
Semantic Segmentation", CVPR 2018.

AffinityNet turns the last three stages of a network into one feature per cell; two cells belong together as far as
their features are alike. It learns that from the confident pixels of the class maps, which then walk over it, together
with a background score that is the maps' own complement.

Deviation: the published code averages label scores over a cell before it takes the largest; here a cell has the label
of its central pixel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from tagseg.grid import Grid
from tagseg.masks.crf import dense_crf
from tagseg.masks.random_walk import directions, feature_links, random_walk, shifted, sources
from tagseg.masks.refinements.psa import PSASettings
from tagseg.methods.refinements.base import (
    AffinityNetwork,
    Thresholds,
    affinity_losses,
    alpha_at,
    confident,
    network_image,
    pairs,
    run_network,
    shrink,
)
from tagseg.networks.optimisers import poly_optimiser

STRIDE = 8  # of the grid of features, pixels


class PSA(AffinityNetwork):
    """The network AffinityNet, by whose features cells are compared.

    Args:
        backbone, weights: see `tagseg.networks.backbone.Backbone`; the network as it comes, not the classifier.
        settings: see `PSASettings`.
        steps: how many optimiser steps the whole training takes, for the schedule.
    """

    Settings = PSASettings
    stride = STRIDE
    decision = 0.5

    def __init__(self, backbone: str, weights: str, settings: PSASettings, steps: int) -> None:
        super().__init__(backbone, weights, settings, steps)
        self.backbone.keep_pretrained(4, settings.norms)
        widths, _ = self.backbone.stage_shapes()
        self.head = FeatureHead(widths[-3:], self.backbone.grid)

    @staticmethod
    def label(
        photo: np.ndarray, maps: np.ndarray, classes: tuple[int, ...], thresholds: Thresholds, threads: int | None
    ) -> np.ndarray:
        """Returns confident labels (section 3.2): the maps against a strong and a weak background score.

        The scores are `(1 - max) ** alpha`, and each goes through a CRF. `(H, W, 3)`, `(K, H, W)` -> `(H, W)` uint8,
        255 where not sure.
        """
        found = []
        for score in (thresholds.high, thresholds.low):
            scores = with_own_background(maps, alpha_at(score))
            found.append(dense_crf(photo, scores, "psa", threads=threads).argmax(axis=0))
        return confident(found[0], found[1], classes)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Returns what cells are compared by. `(B, 3, H, W) -> (B, 448, h, w)`."""
        return self.head(self.backbone.stages(images)[-3:])

    def training_step(self, batch: dict[str, torch.Tensor], _: int) -> torch.Tensor:
        """Returns the loss of affinities (section 3.3)."""
        features, radius = self.features(batch["image"]).float(), self.settings.radius
        step = batch["image"].shape[-1] // features.shape[-1]
        labels = self.backbone.grid.with_stride(step).sample(batch["mask"])
        labelled = pairs(labels[:, : features.shape[-2], : features.shape[-1]], radius)
        background, objects, different = affinity_losses(feature_affinity(features, radius), labelled)
        loss = background / 4 + objects / 4 + different / 2
        return self.told(loss, background=background, objects=objects, different=different)

    def configure_optimizers(self) -> Any:
        """Returns the optimiser of the backbone and of the head."""
        s = self.settings
        return poly_optimiser(
            self.backbone,
            self.head,
            kind=s.optimiser,
            learning_rate=s.learning_rate,
            head_factor=s.head_factor,
            weight_decay=s.weight_decay,
            steps=self.steps,
        )

    @torch.inference_mode()
    def walk(self, photo: np.ndarray, maps: np.ndarray, thresholds: Thresholds) -> np.ndarray:
        """Returns the maps after the walk (section 3.4). `(H, W, 3)`, `(K, H, W)` -> `(K, h, w)` in [0, 1].

        The background walks along as a score of its own. What is returned is each map's share of the two, so that a map
        wins from 0.5 on.
        """
        images = network_image(self.backbone, photo, self.settings.walk_side).to(self.device)
        features = run_network(self.features, images)[0].cpu().numpy()
        s = self.settings
        if s.background_constant is not None:
            scores = np.concatenate([np.full((1, *maps.shape[1:]), s.background_constant, maps.dtype), maps])
        else:
            alpha = alpha_at(thresholds.middle) if s.background_alpha == "auto" else s.background_alpha
            scores = with_own_background(maps, alpha)
        start = shrink(scores, (features.shape[1], features.shape[2]))
        walked = random_walk(start, feature_links(features, s.radius), s.radius, beta=s.beta, log_steps=s.log_steps)
        return walked[1:] / np.maximum(walked[1:] + walked[:1], 1e-8)


def with_own_background(maps: np.ndarray, alpha: float) -> np.ndarray:
    """Puts `(1 - max_c map_c) ** alpha` in front of maps (section 3.2, equation 1).

    `(K, H, W) -> (K + 1, H, W)`.
    """
    return np.concatenate([(1 - maps.max(axis=0, keepdims=True, initial=0)).clip(0) ** alpha, maps])


def feature_affinity(features: torch.Tensor, radius: float) -> torch.Tensor:
    """Returns `exp(-mean_c |f_i - f_j|)` (section 3.3, equation 2), for training.

    `(B, D, h, w) -> (B, directions, S)`.
    """
    return _FeatureAffinity.apply(features, radius)


class _FeatureAffinity(torch.autograd.Function):
    """Differences are taken again for the gradient: kept, those of 16 windows would fill 0.7 GB."""

    @staticmethod
    def forward(ctx: Any, features: torch.Tensor, radius: float) -> torch.Tensor:
        ctx.radius = radius
        rows, columns = sources(features.shape[-2], features.shape[-1], radius)
        here = features[..., rows, columns]
        affinity = torch.stack(
            [(-(here - shifted(features, o, radius)).abs().mean(dim=1)).exp() for o in directions(radius)], dim=1
        )
        ctx.save_for_backward(features, affinity)
        return affinity.flatten(2)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        features, affinity = ctx.saved_tensors
        rows, columns = sources(features.shape[-2], features.shape[-1], ctx.radius)
        slope = -gradients[0].reshape(affinity.shape) * affinity / features.shape[1]
        result = torch.zeros_like(features)
        here = result[..., rows, columns]
        for number, offset in enumerate(directions(ctx.radius)):
            part = (features[..., rows, columns] - shifted(features, offset, ctx.radius)).sign_()
            part *= slope[:, number, None]
            here += part
            shifted(result, offset, ctx.radius).sub_(part)
        return result, None


class FeatureHead(nn.Module):
    """A head that turns three stages into 64, 128 and 256 channels at the finest grid among them, joined to 448.

    Its layers are the published ones.
    """

    def __init__(self, widths: list[int], grid: Grid) -> None:
        super().__init__()
        self.grid = grid
        outputs = (64, 128, 256)[-len(widths) :]
        self.stages = nn.ModuleList(
            nn.Conv2d(w, o, kernel_size=1, bias=False) for w, o in zip(widths, outputs, strict=True)
        )
        self.joint = nn.Conv2d(sum(outputs), sum(outputs), kernel_size=1, bias=False)
        for convolution in (*self.stages, self.joint):
            nn.init.xavier_uniform_(convolution.weight)

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        """Returns the joined features of the stages: `(B, 448, h, w)`."""
        units = [F.elu(stage(f)) for stage, f in zip(self.stages, features, strict=True)]
        return F.elu(self.joint(torch.cat([self.grid.resize(u, units[0].shape[-2:]) for u in units], dim=1)))
