"""IRN: Ahn, Cho and Kwak, "Weakly Supervised Learning of Instance Segmentation with Inter-pixel Relations", CVPR 2019.

On the frozen features of an ImageNet network two branches learn from the confident pixels of the class maps: one draws
boundaries between classes, the other lets every cell point to the centre of its object. Two cells belong together if
no boundary lies on the straight way between them, and the class maps walk along such ways. The displacements tell
objects of one class apart (`IRN.displacements`); they have no part in semantic masks, so that they are only learnt when
asked for.

The published code brings every photograph onto a canvas of 512 pixels and thereby cuts larger ones; here any size goes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from tagseg.grid import Grid
from tagseg.masks.background import with_background
from tagseg.masks.crf import crf_from_labels
from tagseg.masks.random_walk import directions, edge_affinity, edge_links, random_walk, shifted, sources
from tagseg.masks.refinements.irn import IRNSettings
from tagseg.methods.refinements.base import (
    AffinityNetwork,
    Thresholds,
    affinity_losses,
    confident,
    mean_over,
    network_image,
    pairs,
    run_network,
    shrink,
)
from tagseg.networks.optimisers import poly_optimiser

STRIDE = 4  # of the grid of boundaries, pixels
WALK_RADIUS = 5  # cells


class IRN(AffinityNetwork):
    """A network that learns boundaries and displacements on frozen features.

    Args:
        backbone, weights: see `tagseg.networks.backbone.Backbone`; the network as it comes, not the classifier.
        settings: see `IRNSettings`.
        steps: how many optimiser steps the whole training takes, for the schedule.
    """

    Settings = IRNSettings
    stride = STRIDE
    decision = None  # published: 0.25

    def __init__(self, backbone: str, weights: str, settings: IRNSettings, steps: int) -> None:
        super().__init__(backbone, weights, settings, steps)
        self.backbone.requires_grad_(False)
        self.backbone.keep_pretrained(0, settings.norms)
        widths, strides = self.backbone.stage_shapes()
        self.used = used_stages(strides)
        widths, strides = [widths[n] for n, _ in self.used], [max(STRIDE, strides[n]) for n, _ in self.used]
        self.heads = nn.ModuleDict({"edge": EdgeHead(widths, self.backbone.grid)})
        if settings.displacement:
            self.heads["displacement"] = DisplacementHead(widths, strides, self.backbone.grid)

    @staticmethod
    def label(
        photo: np.ndarray, maps: np.ndarray, classes: tuple[int, ...], thresholds: Thresholds, threads: int | None
    ) -> np.ndarray:
        """Returns confident labels (section 4.1): the maps above a high and above a low score, each through a CRF.

        The CRF takes them as hard labels. `(H, W, 3)`, `(K, H, W)` -> `(H, W)` uint8, 255 where not sure.
        """
        found = []
        for score in (thresholds.high, thresholds.low):
            hard = with_background(maps, score).argmax(axis=0)
            found.append(crf_from_labels(photo, hard, len(maps) + 1, "irn-label", threads=threads).argmax(axis=0))
        return confident(found[0], found[1], classes)

    def features(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Returns the frozen features, the finest at stride 4.

        What is finer is pooled, as ResNet does between its stages.
        """
        with torch.no_grad():
            stages = self.backbone.stages(images)
        kernel, padding = (3, 1) if self.backbone.grid.corners else (2, 0)
        kept = []
        for number, pools in self.used:
            feature = stages[number]
            for _ in range(pools):
                feature = F.max_pool2d(feature, kernel, stride=2, padding=padding)
            kept.append(feature)
        return kept

    def edges(self, images: torch.Tensor) -> torch.Tensor:
        """Returns boundary scores before the sigmoid. `(B, 3, H, W) -> (B, 1, h, w)`, at stride 4."""
        return self.heads["edge"](self.features(images))

    def displacements(self, images: torch.Tensor) -> torch.Tensor:
        """Returns where every cell's object has its centre, as seen from the cell.

        `(B, 3, H, W) -> (B, 2, h, w)`, (dy, dx) in cells of stride 4; only with the setting `displacement`.
        """
        return self.heads["displacement"](self.features(images))

    def training_step(self, batch: dict[str, torch.Tensor], _: int) -> torch.Tensor:
        """Returns the loss of boundaries (equation 6), and with displacements theirs."""
        features, radius = self.features(batch["image"]), self.settings.radius
        edges = self.heads["edge"](features).float().sigmoid()
        step = batch["image"].shape[-1] // edges.shape[-1]
        labels = self.backbone.grid.with_stride(step).sample(batch["mask"])[:, : edges.shape[-2], : edges.shape[-1]]
        labelled = pairs(labels, radius)
        background, objects, different = affinity_losses(edge_affinity(edges, radius), labelled)
        loss = (background + objects) / 4 + different / 2
        terms = {"background": background, "objects": objects, "different": different}
        if self.settings.displacement:
            displacement = self.heads["displacement"](features).float()
            terms["displacement"] = sum(displacement_losses(displacement, labelled, radius), loss.new_zeros(()))
            loss = loss + terms["displacement"] / 2
        return self.told(loss, **terms)

    def configure_optimizers(self) -> Any:
        """Returns the optimiser of the branches; the features are frozen."""
        s = self.settings
        return poly_optimiser(
            self.heads["edge"],
            self.heads["displacement"] if s.displacement else nn.Identity(),
            kind=s.optimiser,
            learning_rate=s.learning_rate,
            head_factor=s.head_factor,
            weight_decay=s.weight_decay,
            steps=self.steps,
        )

    @torch.inference_mode()
    def walk(self, photo: np.ndarray, maps: np.ndarray, thresholds: Thresholds) -> np.ndarray:  # noqa: ARG002
        """Returns the maps after the walk (section 4.2).

        `(H, W, 3)`, `(K, H, W)` -> `(K, h, w)` in [0, 1], at stride 4. Boundaries are those of the photograph and of
        its mirror image, averaged before the sigmoid; the walk starts from the maps off the boundaries; in the end all
        maps are divided by the largest value among them.
        """
        images = network_image(self.backbone, photo, self.settings.walk_side).to(self.device)
        logits = run_network(self.edges, torch.cat([images, images.flip(-1)]))
        edge = ((logits[0] + logits[1].flip(-1)) / 2).sigmoid()[0].cpu().numpy()
        start = shrink(maps, (edge.shape[0], edge.shape[1])) * (1 - edge)
        s = self.settings
        walked = random_walk(start, edge_links(edge, WALK_RADIUS), WALK_RADIUS, beta=s.beta, log_steps=s.log_steps)
        return np.clip(walked / max(float(walked.max()), 1e-8), 0, 1)


def used_stages(strides: list[int]) -> list[tuple[int, int]]:
    """Returns the numbers of the stages that IRN looks at, and how often each is pooled.

    They are all from stride 4 on, and the last one before them.
    """
    fine = [n for n, stride in enumerate(strides) if stride < STRIDE]
    return [(n, (STRIDE // strides[n]).bit_length() - 1) for n in fine[-1:]] + [
        (n, 0) for n, stride in enumerate(strides) if stride >= STRIDE
    ]


def displacement_losses(
    displacement: torch.Tensor, labelled: tuple[torch.Tensor, torch.Tensor, torch.Tensor], radius: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the losses of displacements of pairs of one class and of background pairs (equations 4 and 5).

    By them cells of one object point to one place, those of the background nowhere in common.

    Args:
        displacement: `(B, 2, h, w)`, (dy, dx) in cells.
        labelled: see `tagseg.methods.refinements.base.pairs`.

    Returns:
        over pairs of one class the mean of `|D_i - D_j - (j - i)|`, over background pairs that of `|D_i - D_j|`.
    """
    background, objects, _ = labelled
    rows, columns = sources(displacement.shape[-2], displacement.shape[-1], radius)
    here = displacement[..., rows, columns].flatten(2)
    offsets = directions(radius)
    there = torch.stack([shifted(displacement, offset, radius).flatten(2) for offset in offsets], dim=2)
    difference = here[:, :, None] - there  # (B, 2, D, S)
    way = torch.tensor(offsets, dtype=difference.dtype, device=difference.device).T.reshape(1, 2, -1, 1)
    together = (difference - way).abs().sum(dim=1) / 2
    return mean_over(together, objects), mean_over(difference.abs().sum(dim=1) / 2, background)


class EdgeHead(nn.Module):
    """A head that turns every stage into 32 channels, all at the finest grid, and these into one boundary score.

    Its layers are the published ones.
    """

    def __init__(self, widths: list[int], grid: Grid) -> None:
        super().__init__()
        self.grid = grid
        self.stages = nn.ModuleList(_unit(width, 32, groups=4) for width in widths)
        self.score = nn.Conv2d(32 * len(widths), 1, kernel_size=1)

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        """Returns boundary scores of the stages' features, before the sigmoid: `(B, 1, h, w)`."""
        size, units = features[0].shape[-2:], [unit(f) for unit, f in zip(self.stages, features, strict=True)]
        return self.score(torch.cat([F.relu(self.grid.resize(u, size)) for u in units], dim=1))


class DisplacementHead(nn.Module):
    """A head that joins coarse stages at stride 8, and these with the fine ones at stride 4, to (dy, dx).

    Its layers are the published ones.
    """

    def __init__(self, widths: list[int], strides: list[int], grid: Grid) -> None:
        super().__init__()
        self.grid = grid
        self.fine = sum(1 for stride in strides if stride <= STRIDE)
        outputs = [64 * (i + 1) if i < self.fine else 256 for i in range(len(widths))]
        groups = [8 * (i + 1) if i < self.fine else 16 for i in range(len(widths))]
        self.stages = nn.ModuleList(_unit(w, o, g) for w, o, g in zip(widths, outputs, groups, strict=True))
        self.coarse = _unit(sum(outputs[self.fine :]), 256, groups=16)
        self.joint = _unit(256 + sum(outputs[: self.fine]), 256, groups=16)
        self.score = nn.Conv2d(256, 2, kernel_size=1, bias=False)

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        """Returns displacements (dy, dx) of the stages' features: `(B, 2, h, w)`."""
        units = [F.relu(unit(f)) for unit, f in zip(self.stages, features, strict=True)]
        fine, coarse = units[: self.fine], units[self.fine :]
        middle = torch.cat([self.grid.resize(u, coarse[0].shape[-2:]) for u in coarse], dim=1)
        middle = self.grid.resize(F.relu(self.coarse(middle)), features[0].shape[-2:])
        return self.score(F.relu(self.joint(torch.cat([*fine, middle], dim=1))))


def _unit(inputs: int, outputs: int, groups: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel_size=1, bias=False), nn.GroupNorm(groups, outputs))
