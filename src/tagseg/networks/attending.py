"""Watching a transformer attend: queries and keys of every attention, where attention itself takes them.

Whatever a network does to them before (normalisation, rotation by position) has happened there.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_lock = threading.RLock()  # of torch's own function, for which another stands in for a moment


class Attended(NamedTuple):
    """One attention.

    queries: `(B, H, n, d)`, scaled.
    keys: `(B, H, m, d)`.
    mask: what is added to their products, or where they count; None for nothing.
    """

    queries: torch.Tensor
    keys: torch.Tensor
    mask: torch.Tensor | None

    def weights(self) -> torch.Tensor:
        """Returns the attention, `(B, H, n, m)` in [0, 1], whose rows add up to 1; float32."""
        products = self.queries.float() @ self.keys.float().transpose(-2, -1)
        if self.mask is not None:
            masked = self.mask.dtype == torch.bool
            products = products.masked_fill(~self.mask, -torch.inf) if masked else products + self.mask.float()
        return products.softmax(dim=-1)


class Attending(TorchFunctionMode):
    """A context in which every attention that torch computes is noted in `calls`, in the order of the computation.

    Args:
        modules: whose attentions are asked to let torch compute them in one piece while it lasts, as timm's can.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        super().__init__()
        self.calls: list[Attended] = []
        self._modules = [module for module in modules if hasattr(module, "fused_attn")]
        self._fused: list[Any] = []

    def __enter__(self) -> Any:
        """Begins to watch."""
        self._fused = [module.fused_attn for module in self._modules]
        for module in self._modules:
            module.fused_attn = True  # type: ignore[assignment]
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        """Ends it, and leaves the modules as they were."""
        super().__exit__(*error)
        for module, fused in zip(self._modules, self._fused, strict=True):
            module.fused_attn = fused

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Notes the call if it is an attention, and makes it."""
        named = kwargs or {}
        if func is F.scaled_dot_product_attention:
            given = dict(zip(("query", "key", "value", "attn_mask"), args, strict=False)) | named
            scale = named.get("scale") or given["query"].shape[-1] ** -0.5
            self.calls.append(Attended(given["query"] * scale, given["key"], given.get("attn_mask")))
        elif func is F.multi_head_attention_forward:
            with _seen_inside(self.calls):
                return func(*args, **named)
        return func(*args, **named)


@contextmanager
def _seen_inside(calls: list[Attended]) -> Iterator[None]:
    """Notes what torch's own multi-head attention attends to: within it, a mode is not asked.

    Other threads pass through unnoticed.
    """
    attend, thread = F.scaled_dot_product_attention, threading.get_ident()

    def noted(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any = None, *rest: Any, **how: Any
    ) -> Any:
        if threading.get_ident() == thread:
            calls.append(Attended(query * query.shape[-1] ** -0.5, key, mask))
        return attend(query, key, value, mask, *rest, **how)

    with _lock:
        F.scaled_dot_product_attention = noted  # type: ignore[assignment]
        try:
            yield
        finally:
            F.scaled_dot_product_attention = attend
