"""Attention rollout: Abnar and Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020, for images."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tagseg.attribution.calling import Caller, Inputs, Score
from tagseg.attribution.capture import check_classes
from tagseg.attribution.fusion import fuse
from tagseg.attribution.gradient import prepare
from tagseg.attribution.holding import undisturbed
from tagseg.attribution.layers import Layer, find_layers, unwrap
from tagseg.errors import BadInput
from tagseg.networks.attending import Attended, Attending


class AttentionRollout:
    """Attention rollout (section 3, equation 1): how far the class token depends on every patch through all layers.

    The attention of a layer, the mean over its heads, and the connection around it count half each: `(A + 1) / 2`.
    Their product over all layers is the flow from the input; its row of the class token is the map, or the mean of the
    rows of all patches in a network without one. It is the same for every class.

    Args:
        model: a transformer that attends between all its tokens, and lets torch compute its attention
            (`torch.nn.functional.scaled_dot_product_attention`), as those of timm, torchvision and transformers do.
        score: from what it returns to `(B, C)`.

    Raises:
        BadInput: on the call, when the network is no such transformer.
    """

    def __init__(self, model: nn.Module, *, score: Score | None = None) -> None:
        self.model, self.score = unwrap(model), score
        self._layer: Layer | None = None

    def __call__(self, images: torch.Tensor, classes: Any = None, *, inputs: Inputs | None = None) -> torch.Tensor:
        """Returns maps `(B, K, H, W)` in [0, 1], the same for all K classes; `inputs` is all that the model takes."""
        return fuse(self.layer_maps(images, classes, inputs=inputs), (images.shape[2], images.shape[3]))

    def layer_maps(
        self, images: torch.Tensor, classes: Any = None, *, inputs: Inputs | None = None
    ) -> list[torch.Tensor]:
        """Returns the maps in a list of one: `[(B, K, h, w)]`, shares of the class token's attention, float32."""
        caller = Caller(self.model, self.score, inputs, images if inputs is not None else None)
        images = prepare(self.model, images)
        with undisturbed(self.model), torch.no_grad():
            if self._layer is None:
                self._layer = find_layers(self.model, "last", images, caller)[0]
            with Attending(self.model.modules()) as seen:
                output = caller(images)
            scores = caller.scores(output, len(images))
            chosen = check_classes(classes, scores)
            flow = rolled_out(self._all_tokens(seen.calls, len(images)))
        reading = self._layer.reading
        prefix, suffix = (0, 0) if reading is None else (reading.prefix, reading.suffix)
        row = flow[:, 0] if prefix else flow[:, : flow.shape[1] - suffix].mean(dim=1)
        tokens = row[:, :, None] if reading is None or reading.batch == 0 else row.T[:, :, None]
        maps = self._layer.grid(tokens, (images.shape[2], images.shape[3]))
        return [maps.expand(-1, chosen.shape[1], -1, -1)]

    def _all_tokens(self, calls: list[Attended], images: int) -> list[Attended]:
        """The attentions between all tokens; the network must have some, and no others.

        What a single query asks, as in a pooling at the end, moves nothing between the patches.
        """
        among = [call for call in calls if call.queries.shape[-2] > 1]
        tokens = {call.queries.shape[-2] for call in among} | {call.keys.shape[-2] for call in among}
        windows = any(call.queries.shape[0] != images or call.queries.ndim != 4 for call in among)
        if not among:
            raise BadInput(
                "attention rollout: torch computes no attention in this network; give a transformer (of the library "
                "transformers one with attn_implementation='sdpa'), or use layercam."
            )
        if len(tokens) != 1 or windows:
            raise BadInput(
                "attention rollout: this network attends within windows, or to fewer tokens than it has, so that "
                "attention does not add up through its layers; use layercam."
            )
        return among


def rolled_out(calls: list[Attended]) -> torch.Tensor:
    """Returns the product of the layers' attention with what goes around it. `(B, n, n)`, whose rows add up to 1."""
    flow: torch.Tensor | None = None
    for call in calls:
        mean = call.weights().mean(dim=1)
        step = (mean + torch.eye(mean.shape[-1], device=mean.device)) / 2
        flow = step if flow is None else step @ flow
    assert flow is not None
    return flow
