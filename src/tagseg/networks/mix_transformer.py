"""The mix transformer, MiT-B0 to MiT-B5: Xie et al., "SegFormer: Simple and Efficient Design for Semantic Segmentation
with Transformers", NeurIPS 2021, section 3.1.

Four stages of ever coarser cells, embedded by overlapping convolutions. All cells of a stage ask, but answers come from
a grid that is coarser still, except in the last stage. A 3x3 depthwise convolution between the two layers of every
block tells cells where they are.

The layers are called as in the published state dicts (`mit_b1.pth`); `from_published` renames the one that is not. At a
stride of 16 the last stage keeps the cells of the one before it, as AFA has it.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, ClassVar

import torch
from timm.layers import DropPath
from torch import nn
from torch.nn import functional as F

# channels of the stages, and blocks in each
_SIZES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "mit_b0": ((32, 64, 160, 256), (2, 2, 2, 2)),
    "mit_b1": ((64, 128, 320, 512), (2, 2, 2, 2)),
    "mit_b2": ((64, 128, 320, 512), (3, 4, 6, 3)),
    "mit_b3": ((64, 128, 320, 512), (3, 4, 18, 3)),
    "mit_b4": ((64, 128, 320, 512), (3, 8, 27, 3)),
    "mit_b5": ((64, 128, 320, 512), (3, 6, 40, 3)),
}
NAMES = tuple(_SIZES)
STRIDES = (32, 16)
HEADS, REDUCTIONS = (1, 2, 5, 8), (8, 4, 2, 1)  # of the stages; answers come from a grid so many times coarser
DROPPED = 0.1  # how often the last block is left out in training, and earlier ones in proportion
_norm = partial(nn.LayerNorm, eps=1e-6)


class Attention(nn.Module):
    """Attention of all cells of a grid to a coarser one.

    Args:
        width: channels.
        heads: H.
        reduction: how many times coarser the grid is that answers.
    """

    def __init__(self, width: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.num_heads, self.scale = heads, (width // heads) ** -0.5
        self.q, self.kv, self.proj = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)
        self.sr: nn.Conv2d | None = None
        if reduction > 1:
            self.sr = nn.Conv2d(width, width, kernel_size=reduction, stride=reduction)
            self.norm = nn.LayerNorm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns what cells see of each other. `(B, h, w, D) -> (B, h, w, D)`."""
        asked = x
        if self.sr is not None:
            # a grid of fewer cells than one of the coarser has is filled up
            down, across = (max(0, self.sr.stride[0] - n) for n in x.shape[1:3])
            whole = F.pad(x.permute(0, 3, 1, 2), (0, across, 0, down))
            asked = self.norm(self.sr(whole).permute(0, 2, 3, 1))
        queries = self._heads(self.q(x))
        keys, values = (self._heads(part) for part in self.kv(asked).chunk(2, dim=-1))
        found = F.scaled_dot_product_attention(queries, keys, values)
        return self.proj(found.transpose(1, 2).flatten(2)).view(x.shape)

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        """`(B, h, w, D) -> (B, H, h w, D / H)`."""
        return x.flatten(1, 2).unflatten(2, (self.num_heads, -1)).transpose(1, 2)


class Mixing(nn.Module):
    """The two layers of a block, with a 3x3 depthwise convolution between them, which tells cells where they are."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inside = 4 * width
        self.fc1, self.fc2 = nn.Linear(width, inside), nn.Linear(inside, width)
        self.dwconv = nn.Conv2d(inside, inside, kernel_size=3, padding=1, groups=inside)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns what the layers make of cells. `(B, h, w, D) -> (B, h, w, D)`."""
        inside = self.dwconv(self.fc1(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.fc2(F.gelu(inside))


class Block(nn.Module):
    """A block: attention and mixing, each after a normalisation and beside the input itself."""

    def __init__(self, width: int, heads: int, reduction: int, dropped: float) -> None:
        super().__init__()
        self.norm1, self.attn = _norm(width), Attention(width, heads, reduction)
        self.norm2, self.mlp = _norm(width), Mixing(width)
        self.drop_path = DropPath(dropped)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the block's output. `(B, h, w, D) -> (B, h, w, D)`."""
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class Embedding(nn.Module):
    """An overlapping convolution to coarser cells, and a normalisation."""

    def __init__(self, inputs: int, width: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(inputs, width, kernel_size=kernel, stride=stride, padding=kernel // 2)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the cells. `(B, C, H, W) -> (B, h, w, D)`."""
        return self.norm(self.proj(x).permute(0, 2, 3, 1))


class MixTransformer(nn.Module):
    """The network, `(B, 3, H, W) -> (B, D, h, w)`, with what `Backbone` asks of timm's networks.

    Args:
        name: one of `NAMES`.
        output_stride: 32, or 16.
    """

    pretrained_cfg: ClassVar = {"classifier": "head", "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}

    def __init__(self, name: str, output_stride: int | None = None) -> None:
        super().__init__()
        widths, depths = _SIZES[name]
        strides = (4, 2, 2, 1 if output_stride == 16 else 2)
        dropped = iter(torch.linspace(0, DROPPED, sum(depths)).tolist())
        inputs, total = 3, 1
        self.feature_info: list[dict[str, Any]] = []
        for number, (width, depth, stride) in enumerate(zip(widths, depths, strides, strict=True), start=1):
            heads, reduction = HEADS[number - 1], REDUCTIONS[number - 1]
            blocks = [Block(width, heads, reduction, next(dropped)) for _ in range(depth)]
            self.add_module(f"patch_embed{number}", Embedding(inputs, width, 7 if number == 1 else 3, stride))
            self.add_module(f"block{number}", nn.Sequential(*blocks))
            self.add_module(f"norm{number}", _norm(width))
            inputs, total = width, total * stride
            self.feature_info.append({"module": f"norm{number}", "num_chs": width, "reduction": total})
        self.apply(_initialise)

    def forward_intermediates(
        self, images: torch.Tensor, *, intermediates_only: bool = False, **_: Any
    ) -> list[torch.Tensor] | tuple[torch.Tensor, list[torch.Tensor]]:
        """Returns the last features and those of the four stages; with `intermediates_only` the latter alone."""
        x, stages = images, []
        for number in range(1, len(self.feature_info) + 1):
            embed, blocks, norm = (getattr(self, f"{part}{number}") for part in ("patch_embed", "block", "norm"))
            x = norm(blocks(embed(x))).permute(0, 3, 1, 2)
            stages.append(x)
        return stages if intermediates_only else (x, stages)

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        """Returns the last features. `(B, 3, H, W) -> (B, D, h, w)`."""
        return self.forward_intermediates(images)[0]

    def early_parameters(self) -> list[nn.Parameter]:
        """Returns the parameters of the first stage, the ones that `Backbone.freeze` can keep as they are."""
        first = ("patch_embed1.", "block1.", "norm1.")
        return [parameter for name, parameter in self.named_parameters() if name.startswith(first)]

    @property
    def last_attentions(self) -> list[Attention]:
        """Returns the attentions of the last stage, where all cells answer."""
        return [block.attn for block in getattr(self, f"block{len(self.feature_info)}")]


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        spread = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / spread))
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def from_published(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns the published state dict by the names that the layers have here."""
    return {name.replace("dwconv.dwconv.", "dwconv."): value for name, value in state.items()}
