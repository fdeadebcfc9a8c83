"""A vision transformer with a token for every class in the place of its own, as MCTformer and WeakTr have it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from timm.layers import DropPath
from torch import nn

from tagseg.networks.attending import Attending
from tagseg.networks.vit import Attention, Transformer

Summary = Callable[[torch.Tensor], torch.Tensor]


class ClassTokens(NamedTuple):
    """What a transformer with class tokens says of images.

    classes: the class tokens after every one of its K blocks, `(B, C, D)` each.
    patches: `(B, D, h, w)` after the last block, without the last normalisation (published codes).
    attention: of all blocks; the class tokens come first among those that are no patches.
    added: what every block's attention adds to the tokens, summarised: `(B, D)` each, if it was asked for.
    """

    classes: list[torch.Tensor]
    patches: torch.Tensor
    attention: Attention
    added: list[torch.Tensor]

    @property
    def logits(self) -> torch.Tensor:
        """Returns how much every class is there, the mean of its last token: `(B, C)` (MCTformer, section 3.2)."""
        return self.classes[-1].float().mean(dim=2)


class ClassTokenTransformer(Transformer):
    """A plain vision transformer with C class tokens, each of which begins as its own class token.

    Args:
        name, weights: see `tagseg.networks.backbone.Backbone`.
        classes: C.
        drop_path: how often the last block is left out while it learns; earlier ones are less often, the first never.

    Raises:
        BadInput: the network is no plain transformer.
    """

    def __init__(self, name: str, weights: str, classes: int, drop_path: float = 0.0) -> None:
        super().__init__(name, weights)
        network = self.network
        self.own = int(getattr(network, "cls_token", None) is not None)  # tokens in whose place those of classes are
        first = [nn.init.trunc_normal_(torch.empty(1, self.channels), std=0.02)]
        if self.own:  # with its position, where it has one
            self._try(lambda images: first.append(network._pos_embed(network.patch_embed(images))[0, :1]))
            network.cls_token.requires_grad_(False)
        self.class_tokens = nn.Parameter(first[-1].repeat(classes, 1))
        network.norm.requires_grad_(False)  # what it gives is not used
        for number, block in enumerate(network.blocks):
            rate = drop_path * number / max(1, self.blocks - 1)
            if rate:
                block.drop_path1, block.drop_path2 = DropPath(rate), DropPath(rate)
        self._try(self.with_classes)

    def hold(self) -> None:
        """Keeps all that is pretrained as it is, for good; class tokens are new, and learn."""
        super().hold()
        self.class_tokens.requires_grad_(True)

    def with_classes(self, images: torch.Tensor, summary: Summary | None = None) -> ClassTokens:
        """Returns what the transformer says of images `(B, 3, H, W)`, H and W multiples of the patch.

        `summary` makes `(B, D)` of what the attention of a block adds to the tokens, `(B, n, D)`.

        Raises:
            BadInput: a side is not a multiple.
        """
        grid, network, count = self._cells(images), self.network, len(self.class_tokens)
        others = network._pos_embed(network.patch_embed(images))[:, self.own :]
        tokens = network.norm_pre(torch.cat([self.class_tokens.expand(len(images), -1, -1), others], dim=1))
        classes: list[torch.Tensor] = []
        added: list[torch.Tensor] = []
        seen = Attending(block.attn for block in network.blocks)
        with seen, _heard((block.attn for block in network.blocks), summary, added):
            for block in network.blocks:
                tokens = block(tokens)
                classes.append(tokens[:, :count])
        prefix = tokens.shape[1] - grid[0] * grid[1]
        patches = tokens[:, prefix:].transpose(1, 2).unflatten(2, grid)
        return ClassTokens(classes, patches, self._attention(seen.calls, prefix, grid), added)


@contextmanager
def _heard(modules: Iterator[nn.Module], summary: Summary | None, found: list[torch.Tensor]) -> Iterator[None]:
    """Notes a summary of what modules give while it lasts."""

    def note(_: nn.Module, __: Any, output: torch.Tensor) -> None:
        found.append(summary(output))  # type: ignore[misc]

    hooks = [] if summary is None else [module.register_forward_hook(note) for module in modules]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
