"""ADL: Choe and Shim, "Attention-based Dropout Layer for Weakly Supervised Object Localization", CVPR 2019.

CAM, but while it learns the features of the last stages are multiplied with a map that is made of themselves, their
mean over channels: either it hides the strongest places, so that the classifier has to look elsewhere, or it stresses
them. Which one is drawn for every step and stage. Afterwards the network is as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from tagseg.errors import BadInput, nearest
from tagseg.methods.cam import CAM
from tagseg.methods.settings.adl import ADLSettings
from tagseg.networks.ranks import step_generator


class ADL(CAM):
    """CAM whose last stages hide or stress what is strongest, while it learns; its arguments are those of `CAM`.

    Raises:
        BadInput: the network has no stages, too few, or no layer of such a name.
    """

    Settings = ADLSettings
    on_features = False  # it changes features on their way

    def __init__(self, backbone: str, weights: str, classes: Sequence[str], settings: ADLSettings, steps: int) -> None:
        super().__init__(backbone, weights, classes, settings, steps)
        self.places = settings.layers or self._ends(settings.stages, backbone)
        known = dict(self.backbone.network.named_modules())
        for number, name in enumerate(self.places):
            if name not in known:
                hint = nearest(name, list(known)) or "."
                raise BadInput(f"train.layers: '{backbone}' has no layer '{name}'{hint}")
            known[name].register_forward_hook(partial(self._change, number))

    def _ends(self, count: int, backbone: str) -> tuple[str, ...]:
        """The ends of the last stages; a pooling at the end is none (VGG)."""
        network = self.backbone.network
        ends = [info["module"] for info in network.feature_info]
        ends = [end for end in ends if not isinstance(network.get_submodule(end), nn.MaxPool2d | nn.Identity)]
        if not self.backbone.local or len(ends) < count:
            raise BadInput(
                f"ADL changes {count} stages of a convolutional network, and '{backbone}' has none or too few; "
                "choose another backbone, or a smaller train.stages."
            )
        return tuple(ends[-count:])

    def _change(self, number: int, _: nn.Module, __: Any, features: torch.Tensor) -> torch.Tensor:
        """Changes what a stage gives while the classifier learns."""
        if not self.training or not torch.is_grad_enabled():
            return features
        # of the seed and the step, so that all processes, and a run that goes on, draw the same
        draw = float(torch.rand((), generator=step_generator(len(self.places) * self.global_step + number)))
        return features * attention_map(features, draw < self.settings.drop_rate, self.settings.drop_threshold)


def attention_map(features: torch.Tensor, hide: bool, threshold: float) -> torch.Tensor:
    """Returns by what features are multiplied (section 3.1): 0 at the strongest places and else 1, or their sigmoid.

    Args:
        features: `(B, D, h, w)`.
        hide: whether the strongest places are hidden; else they are stressed.
        threshold: share of the largest mean over channels, from which on a place is hidden.

    Returns:
        `(B, 1, h, w)` in [0, 1].
    """
    means = features.mean(dim=1, keepdim=True)
    if not hide:
        return means.sigmoid()
    return (means < threshold * means.amax(dim=(2, 3), keepdim=True)).to(features.dtype)
