"""Vision transformers as the single-stage methods need them: the tokens of the last block and of an earlier one, and
what every patch attends to.

The attention of K blocks with H heads over n tokens has K H n^2 weights: 6.7 GB for one photograph of 672 pixels and
its mirror image, in float32. Nobody needs them one by one. What is kept here of every block are its queries and keys;
maps are spread along the attention by the same kernel that computes it (`Attention.spread`), which holds no weights at
all, and the mean over heads and blocks is summed up head by head where it is asked for (`Attention.affinity`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F

from tagseg.errors import BadInput, brief
from tagseg.networks.attending import Attended, Attending
from tagseg.networks.backbone import Backbone


@dataclass(frozen=True)
class Attention:
    """The attention of all blocks of a transformer, kept as queries and keys.

    queries, keys: K times `(B, H, n, d)`, the queries scaled.
    prefix: how many of the n tokens are not patches; they come first.
    grid: `(h, w)` of the patches.
    """

    queries: list[torch.Tensor]
    keys: list[torch.Tensor]
    prefix: int
    grid: tuple[int, int]

    def affinity(self, weights: torch.Tensor | None = None, *, normalise: bool = False) -> torch.Tensor:
        """Returns how much patches attend to patches: the mean over heads and blocks, without the other tokens.

        Args:
            weights: `(B, K)` of the blocks, or `(B, K, H)` of their heads; None: all 1.
            normalise: whether rows, which lack what goes to the other tokens, are made to add up to 1.

        Returns:
            `(B, h w, h w)`. Memory: twice that, and the attention of one block's heads one by one.
        """
        total = torch.zeros(0)
        for number, (queries, keys) in enumerate(zip(self.queries, self.keys, strict=True)):
            for head, (query, key) in enumerate(zip(queries.unbind(1), keys.unbind(1), strict=True)):
                part = (query[:, self.prefix :] @ key.transpose(1, 2)).softmax(dim=-1)[:, :, self.prefix :]
                if weights is not None:
                    own = weights[:, number] if weights.ndim == 2 else weights[:, number, head]
                    part = part * own[:, None, None].to(part.dtype)
                total = total + part if total.numel() else part
        total = total / (len(self.queries) * self.queries[0].shape[1])
        return total / total.sum(dim=-1, keepdim=True).clamp(min=1e-8) if normalise else total

    def spread(
        self, maps: torch.Tensor, weights: torch.Tensor | None = None, *, normalise: bool = False
    ) -> torch.Tensor:
        """Computes `affinity(weights) @ maps`, without the affinity.

        `weights` and `normalise` are those of `affinity`, and maps are `(B, C, h, w)`. Memory: a few times the maps.
        """
        batch, channels, height, width = maps.shape
        values = maps.flatten(2).transpose(1, 2)
        if normalise:
            # a map of ones goes along: it comes back as the sums of the affinity's rows
            values = torch.cat([values, torch.ones_like(values[:, :, :1])], dim=2)
        # other tokens have the value 0: what goes to them is lost, as in `affinity`, which lacks their columns
        values = F.pad(values, (0, 0, self.prefix, 0))
        total = torch.zeros_like(values[:, self.prefix :])
        for number, (queries, keys) in enumerate(zip(self.queries, self.keys, strict=True)):
            # queries of patches only, but keys of all tokens: the softmax is the network's own
            total = total + _attended(
                queries[:, :, self.prefix :], keys, values, None if weights is None else weights[:, number]
            )
        total = total / len(self.queries)
        if normalise:
            total = total[:, :, :-1] / total[:, :, -1:].clamp(min=1e-8)
        return total.transpose(1, 2).reshape(batch, channels, height, width)

    def to_patches(self, tokens: int, blocks: int, weights: torch.Tensor | None = None) -> torch.Tensor:
        """Returns how much the first tokens attend to patches: the mean over heads and the last blocks.

        Args:
            tokens: how many of the tokens before the patches, T.
            blocks: how many of the K blocks.
            weights: `(B, K, H)` of their heads; None: all 1.

        Returns:
            `(B, T, h, w)`.
        """
        total = torch.zeros(0)
        for number, (queries, keys) in list(enumerate(self._pairs()))[-blocks:]:
            part = (queries[:, :, :tokens] @ keys.transpose(2, 3)).softmax(dim=-1)[:, :, :, self.prefix :]
            if weights is not None:
                part = part * weights[:, number, :, None, None].to(part.dtype)
            part = part.mean(dim=1)
            total = total + part if total.numel() else part
        return (total / min(blocks, len(self.keys))).unflatten(2, self.grid)

    def logit_means(self) -> torch.Tensor:
        """Returns the mean of every block's scaled products of queries and keys: `(B, K)`.

        It is taken over heads and all pairs of tokens. A mean of products of all pairs is the product of the means.
        """
        # mean_ij q_i . k_j = (mean_i q_i) . (mean_j k_j), of every head
        means = [(q.mean(dim=2) * k.mean(dim=2)).sum(dim=-1).mean(dim=1) for q, k in self._pairs()]
        return torch.stack(means, dim=1)

    def logits(self, blocks: int) -> torch.Tensor:
        """Returns scaled products of queries and keys between patches, of all heads of the last blocks.

        `(B, blocks H, h w, h w)`.
        """
        parts = [
            q[:, :, self.prefix :] @ k[:, :, self.prefix :].transpose(2, 3) for q, k in list(self._pairs())[-blocks:]
        ]
        return torch.cat(parts, dim=1)

    def detach(self) -> Attention:
        """Returns the attention detached, so that nothing is learnt through it."""
        queries, keys = ([x.detach() for x in side] for side in (self.queries, self.keys))
        return Attention(queries, keys, self.prefix, self.grid)

    def _pairs(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return zip(self.queries, self.keys, strict=True)


def _attended(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, weights: torch.Tensor | None
) -> torch.Tensor:
    """The mean over heads of softmax(queries keys) values. `(B, H, m, d)`, `(B, H, n, d)`, `(B, n, C)` -> `(B, m, C)`.

    Each head may have a weight, `(B, H)`, or all of them one, `(B,)`. Kernels that hold no weights want values as wide
    as keys: as many channels go together.
    """
    heads, width = queries.shape[1], queries.shape[3]
    found = []
    # attention is linear in its values, so that channels may go in parts
    for part in values.split(width, dim=2):
        # all heads read the same values, without a copy each
        padded = F.pad(part, (0, width - part.shape[2])).to(queries.dtype)[:, None].expand(-1, heads, -1, -1)
        # the queries are scaled already
        spread = F.scaled_dot_product_attention(queries, keys, padded, scale=1.0)
        if weights is not None and weights.ndim == 2:
            spread = spread * weights[:, :, None, None].to(spread.dtype)
        found.append(spread.mean(dim=1)[:, :, : part.shape[2]])
    joined = torch.cat(found, dim=2)
    return joined * weights[:, None, None].to(joined.dtype) if weights is not None and weights.ndim == 1 else joined


class Tokens(NamedTuple):
    """The output of a transformer for images.

    summary: `(B, D)`, the class token after the last normalisation; without one, the mean of the patches.
    patches: `(B, D, h, w)`, after the last normalisation.
    early: `(B, D, h, w)` of an earlier block, as they are.
    attention: of all blocks, if it was asked for; of a mix transformer, of those of the last stage.
    stages: features at the end of every stage, fine to coarse; of a mix transformer only.
    """

    summary: torch.Tensor
    patches: torch.Tensor
    early: torch.Tensor
    attention: Attention | None
    stages: Sequence[torch.Tensor] = ()


class Transformer(Backbone):
    """A plain vision transformer of timm: a `Backbone` that gives its tokens and its attention too.

    Args:
        name, weights: see `tagseg.networks.backbone.Backbone`.
        early: the block whose patches come as `Tokens.early`, counted from 0, or from the end.

    Raises:
        BadInput: the network is no plain transformer, or has no such block.
    """

    def __init__(self, name: str, weights: str = "random", early: int = -3) -> None:
        super().__init__(name, weights)
        blocks = getattr(self.network, "blocks", None)
        attentions = [getattr(block, "attn", None) for block in blocks or []]
        if not attentions or not all(hasattr(a, "num_heads") for a in attentions):
            raise BadInput(
                f"'{name}' is no plain vision transformer, whose attention this method needs; "
                "choose one, for example deit_base_patch16_224 or vit_tiny_patch16_224."
            )
        self.blocks = len(attentions)
        self.early = early % self.blocks
        if not -self.blocks <= early < self.blocks:
            raise BadInput(f"early block {early}: '{name}' has {self.blocks} blocks.")
        self._try(self.tokens)

    @property
    def attentions(self) -> list[Any]:
        """Returns the modules whose attention `tokens` gives, each with its `num_heads` and its `scale`."""
        return [block.attn for block in self.network.blocks]

    def _try(self, look: Callable[[torch.Tensor], Any]) -> None:
        """Refuses what only looks like a plain transformer, by looking at an image."""
        images = torch.zeros(1, 3, *self.grid.fit(3 * self.stride, 2 * self.stride))
        try:
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                look(images)
        except Exception as error:  # whatever a network does that was not made for this
            raise BadInput(
                f"'{self.name}' does not give patches of photographs of any size as plain vision transformers do "
                f"({brief(error)}); choose another one, for example deit_base_patch16_224 or vit_tiny_patch16_224."
            ) from error

    def tokens(self, images: torch.Tensor, *, attention: bool = False) -> Tokens:
        """Returns the tokens of images `(B, 3, H, W)`, H and W multiples of the patch (see `Grid.fit`).

        Raises:
            BadInput: a side is not a multiple.
        """
        grid = self._cells(images)
        seen = Attending(self.attentions)
        with seen if attention else nullcontext():
            last, (early,) = self.network.forward_intermediates(images, indices=[self.early], output_fmt="NCHW")
        prefix = getattr(self.network, "num_prefix_tokens", 0)
        patches = last[:, prefix:].transpose(1, 2).unflatten(2, grid)
        summary = last[:, 0] if prefix else patches.mean(dim=(2, 3))
        found = self._attention(seen.calls, prefix, grid) if attention else None
        return Tokens(summary, patches, early, found)

    def _cells(self, images: torch.Tensor) -> tuple[int, int]:
        """How many patches (h, w) the images have."""
        height, width = images.shape[-2:]
        if height % self.stride or width % self.stride:
            raise BadInput(f"images of {height} x {width}: sides must be multiples of the patch, {self.stride} pixels.")
        return self.grid.cells(height, width)

    def _attention(self, calls: list[Attended], prefix: int, grid: tuple[int, int]) -> Attention:
        """The attention of all blocks, each of which is to have attended once, in the plain way."""
        why = None
        if len(calls) != self.blocks:
            why = "its blocks do not attend as plain transformers do"
        elif any(call.mask is not None for call in calls):
            why = "its attention depends on more than queries and keys (a bias by position)"
        if why is not None:
            raise BadInput(
                f"'{self.name}': {why}, so that this method cannot read what patches attend to; choose another "
                "backbone, for example deit_base_patch16_224 or vit_tiny_patch16_224."
            )
        return Attention([call.queries for call in calls], [call.keys for call in calls], prefix, grid)


class StagedTransformer(Backbone):
    """A mix transformer whose last stage has the cells of the one before it, with its tokens and their attention.

    Args:
        name: one of `tagseg.networks.mix_transformer.NAMES`.
        weights: see `tagseg.networks.backbone.Backbone`.
    """

    def __init__(self, name: str, weights: str = "random") -> None:
        super().__init__(name, weights, 16)

    @property
    def attentions(self) -> list[Any]:
        """Returns the modules whose attention `tokens` gives, each with its `num_heads` and its `scale`."""
        return self.network.last_attentions

    def tokens(self, images: torch.Tensor, *, attention: bool = False) -> Tokens:
        """Returns the tokens of images `(B, 3, H, W)`, and if it is asked for the attention of the last stage."""
        seen = Attending(self.attentions)
        with seen if attention else nullcontext():
            stages = self.stages(images)
        last, found = stages[-1], None
        if attention:
            calls = seen.calls[-len(self.attentions) :]
            found = Attention([c.queries for c in calls], [c.keys for c in calls], 0, (last.shape[2], last.shape[3]))
        return Tokens(last.mean(dim=(2, 3)), last, stages[-2], found, stages)
