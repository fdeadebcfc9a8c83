"""PCM, the pixel correlation module: Wang et al., "Self-supervised Equivariant Attention Mechanism for Weakly
Supervised Semantic Segmentation" (SEAM), CVPR 2020; L2G uses it too.

Maps flow between cells whose shallow features are alike. In L2G's code it is the features that flow, 4096 channels of
them, and a class convolution without bias follows. Both are linear, so the class convolution may as well come first:
here it is its few maps that flow, with the same result at a two-hundredth of the work.
"""

from __future__ import annotations

import torch
from torch import nn

from tagseg.grid import Grid

EPSILON = 1e-5
WIDTHS = (64, 128)  # of what is left of two stages; the embedding has their sum


class PCM(nn.Module):
    """The pixel correlation module, which compares cells by the image and by the features of two inner stages.

    Args:
        widths: channels of the two stages, the shallower one first.
        grid: the geometry of the maps and of the stages.
        rectified: whether what is left of the stages is rectified, as in SEAM's code; L2G's leaves it as it is.
    """

    def __init__(self, widths: tuple[int, int], grid: Grid, *, rectified: bool = False) -> None:
        super().__init__()
        self.grid, self.rectified = grid, rectified
        # VGG's two stages are equally wide, and so is what is left of them (published layers)
        outputs = (WIDTHS[0], WIDTHS[0] if widths[0] == widths[1] else WIDTHS[1])
        self.stages = nn.ModuleList(nn.Conv2d(w, o, 1, bias=False) for w, o in zip(widths, outputs, strict=True))
        self.embedding = nn.Conv2d(3 + sum(outputs), sum(outputs), 1, bias=False)
        for stage in self.stages:
            nn.init.kaiming_normal_(stage.weight)  # type: ignore[arg-type]
        nn.init.xavier_uniform_(self.embedding.weight, gain=4)

    def forward(self, maps: torch.Tensor, images: torch.Tensor, stages: list[torch.Tensor]) -> torch.Tensor:
        """Returns maps that flowed between cells whose image and features are alike.

        `(B, K, h, w)` maps, the images `(B, 3, H, W)` they belong to, two stages' features -> `(B, K, h, w)`. What the
        maps learn does not reach the backbone by way of the affinity.
        """
        size = maps.shape[-2:]
        inner = [stage(f.detach()) for stage, f in zip(self.stages, stages, strict=True)]
        inputs = [images, *(f.relu() if self.rectified else f for f in inner)]
        joined = torch.cat([self.grid.resize(i, size).to(inputs[-1].dtype) for i in inputs], dim=1)
        return pixel_correlation(maps, self.embedding(joined))


def pixel_correlation(features: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
    """Makes every cell a mean of all cells, weighed by how much their embeddings point the same way.

    The cosine of two embeddings, rectified, is their affinity; affinities of a cell are divided by their sum (SEAM,
    section 3.3, as its code and L2G's have it).

    Args:
        features: `(B, D, h, w)`, of any number of channels.
        embedding: `(B, E, h, w)`.

    Returns:
        `(B, D, h, w)` float32.
    """
    with torch.autocast(features.device.type, enabled=False):
        unit = embedding.float().flatten(2)
        unit = unit / (unit.norm(dim=1, keepdim=True) + EPSILON)
        affinity = torch.bmm(unit.transpose(1, 2), unit).relu()
        affinity = affinity / (affinity.sum(dim=1, keepdim=True) + EPSILON)
        return torch.bmm(features.float().flatten(2), affinity).unflatten(2, features.shape[-2:])
