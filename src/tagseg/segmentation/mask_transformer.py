"""The head of Segmenter: Strudel et al., "Segmenter: Transformer for Semantic Segmentation", ICCV 2021, section 3.2."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

LAYERS, DROPPED, HEAD_WIDTH = 2, 0.1, 64


class MaskTransformer(nn.Module):
    """A head in which every class is a token that attends to all cells, and scores them by their likeness.

    Two layers see the cells and the tokens together; what a class says of a cell is the cosine of both, normalised over
    classes.

    Args:
        channels: D, of the features.
        outputs: C + 1.
    """

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        heads = next(n for n in range(max(1, channels // HEAD_WIDTH), 0, -1) if channels % n == 0)
        self.entry = nn.Linear(channels, channels)
        self.classes = nn.Parameter(torch.zeros(outputs, channels))
        self.layers = nn.ModuleList(
            [
                nn.TransformerEncoderLayer(
                    channels, heads, 4 * channels, DROPPED, activation="gelu", batch_first=True, norm_first=True
                )
                for _ in range(LAYERS)
            ]
        )
        self.norm, self.mask_norm = nn.LayerNorm(channels), nn.LayerNorm(outputs)
        self.of_patches, self.of_classes = (
            nn.Parameter(torch.randn(channels, channels) * channels**-0.5) for _ in range(2)
        )
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.MultiheadAttention):
                nn.init.trunc_normal_(module.in_proj_weight, std=0.02)
        nn.init.trunc_normal_(self.classes, std=0.02)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Returns the logits, background first. `(B, D, h, w) -> (B, C + 1, h, w)`."""
        outputs = len(self.classes)
        cells = self.entry(features.flatten(2).transpose(1, 2))
        tokens = torch.cat([cells, self.classes.expand(cells.shape[0], -1, -1).to(cells.dtype)], dim=1)
        for layer in self.layers:
            tokens = layer(tokens)
        tokens = self.norm(tokens)
        patches = F.normalize(tokens[:, :-outputs] @ self.of_patches, dim=-1)
        classes = F.normalize(tokens[:, -outputs:] @ self.of_classes, dim=-1)
        found = self.mask_norm(patches @ classes.transpose(1, 2)).transpose(1, 2)
        return found.reshape(features.shape[0], outputs, features.shape[2], features.shape[3])
