"""Two DeepLabs that teach each other where masks are doubted: BECO, "Boundary-enhanced co-training for weakly
supervised semantic segmentation", Rong et al., CVPR 2023.

A mask says of every pixel a class or that it is doubted (255). Each network learns the labels there are and, of doubted
pixels, what the other one says (section 3.2). Half of the photographs get objects of another pasted in, whose borders
are sure and weigh more (section 3.3); their labels are what both networks are sure of together, as soon as they have
learnt. Before that, in the warm-up, what a mask doubts is not pasted; the published code pastes it too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import lightning.pytorch as lightning
import numpy as np
import torch
from torch.nn import functional as F

from tagseg.data.loading import normalise, to_pixels
from tagseg.data.photometry import distort_strongly
from tagseg.labels import IGNORE
from tagseg.networks.pooling import box_masks
from tagseg.networks.ranks import shared_mean
from tagseg.segmentation.deeplab import DeepLabPair
from tagseg.segmentation.settings import SegmentSettings
from tagseg.segmentation.training import descent


class CoTraining(lightning.LightningModule):
    """The training of two networks on views in pairs (see `tagseg.data.coupled_views.CoupledViews`)."""

    def __init__(self, network: DeepLabPair, settings: SegmentSettings, steps: int) -> None:
        super().__init__()
        self.network, self.settings, self.steps = network, settings, steps

    def training_step(self, batch: dict[str, torch.Tensor], _: int) -> torch.Tensor:
        """Returns the losses of both networks (equation 7), means over all pixels of photographs."""
        s, backbone = self.settings, self.network.backbone
        images, masks, boxes, seeds = (batch[name].flatten(0, 1) for name in ("image", "mask", "inside", "seed"))
        rngs = [np.random.default_rng(int(seed)) for seed in seeds]
        learnt = self.global_step >= s.beco.warmup * self.steps
        online = self.sure_labels(images) if learnt else None
        inside = box_masks(boxes, masks.shape[-2:]).bool()
        shown = mix_pairs(images, masks, inside, online, s.beco.mixing, rngs)
        coloured = [
            normalise(distort_strongly(pixels, rng), backbone)
            for pixels, rng in zip(to_pixels(shown.images, backbone), rngs, strict=True)
        ]
        loss = self.loss(torch.stack(coloured).to(images), shown)
        self.log("loss", loss)
        return loss

    @torch.no_grad()
    def sure_labels(self, images: torch.Tensor) -> torch.Tensor:
        """Returns what both networks say together of every pixel, where they are sure, and 255 elsewhere.

        `(B, 3, H, W) -> (B, H, W)` int64. Batch normalisations take what they know for it.
        """
        self.network.eval()
        logits = self.network.logits_at(images, (images.shape[-2], images.shape[-1]))
        self.network.train()
        probability, said = logits.float().softmax(dim=1).max(dim=1)
        return torch.where(probability > self.settings.beco.sure, said, IGNORE)

    def loss(self, images: torch.Tensor, shown: Mixed) -> torch.Tensor:
        """Returns the sum over both networks of the cross-entropy with the masks and with what the other says."""
        s = self.settings
        at = self.network.backbone.grid.with_stride(s.loss_stride).sample
        masks, inside, border = at(shown.masks), at(shown.inside), at(shown.border)
        logits = [one.logits_at(images, (masks.shape[-2], masks.shape[-1])) for one in self.network.both]
        said = [found.detach().max(dim=1).indices for found in logits]
        known = masks != IGNORE
        weights = torch.where(known, 1 + s.beco.border_weight * border, 1.0)
        losses = []
        for own, other in zip(logits, reversed(said), strict=True):
            entropy = F.cross_entropy(own.float(), torch.where(known, masks, other), reduction="none")
            losses.append(shared_mean(entropy * weights, inside))
        self.terms = {"first network": losses[0].detach(), "second network": losses[1].detach()}
        return losses[0] + losses[1]

    def configure_optimizers(self) -> Any:
        """Returns the optimiser of both networks, whose heads learn faster, with poly decay."""
        return descent(self.network.both, self.settings, self.steps)


@dataclass(frozen=True)
class Mixed:
    """What networks learn from.

    images: `(B, 3, H, W)`.
    masks: `(B, H, W)` int64, 255 where a label is doubted.
    inside: `(B, H, W)` bool, what is no padding.
    border: `(B, H, W)` bool, along what was pasted in.
    """

    images: torch.Tensor
    masks: torch.Tensor
    inside: torch.Tensor
    border: torch.Tensor


def mix_pairs(
    images: torch.Tensor,
    masks: torch.Tensor,
    inside: torch.Tensor,
    online: torch.Tensor | None,
    probability: float,
    rngs: list[np.random.Generator],
) -> Mixed:
    """Pastes half of the classes of each photograph into the one beside it, every now and then.

    Args:
        images: `(B, 3, H, W)`; photographs 2 i and 2 i + 1 stand beside each other.
        masks, inside: `(B, H, W)`, see `Mixed`.
        online: `(B, H, W)` labels that the mixed photographs get instead of those of the masks; None: the masks', and
            no border counts, as published.
        probability: of something being pasted into a photograph.
        rngs: of each photograph.
    """
    # nothing tells networks what padding is, so that what they say there is never pasted
    labels = masks if online is None else torch.where(inside, online, IGNORE)
    found = Mixed(images.clone(), masks.clone(), inside.clone(), torch.zeros_like(inside))
    for below, rng in enumerate(rngs):
        if rng.random() >= probability:
            continue
        above = below ^ 1
        region = some_classes(labels[above], rng)
        found.images[below] = torch.where(region, images[above], images[below])
        found.masks[below] = torch.where(region, labels[above], labels[below])
        found.inside[below] |= region
        if online is not None:
            found.border[below] = border_of(region)
    return found


def some_classes(labels: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Returns where half of the classes are that a photograph has, background apart, rounded up. `(H, W)` -> bool."""
    present = [int(label) for label in labels.unique() if int(label) not in (0, IGNORE)]
    if not present:
        return torch.zeros_like(labels, dtype=torch.bool)
    chosen = rng.choice(present, (len(present) + 1) // 2, replace=False)
    return torch.isin(labels, torch.as_tensor(chosen, device=labels.device))


def border_of(region: torch.Tensor) -> torch.Tensor:
    """Returns the pixels that touch the border of a region from either side, corners included. `(H, W)` bool."""
    both = torch.stack([region, ~region]).float()[:, None]
    near = F.max_pool2d(both, kernel_size=3, stride=1, padding=1)[:, 0] > 0
    return near[0] & near[1]
