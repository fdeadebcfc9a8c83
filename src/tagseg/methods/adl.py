"""ADL: Choe and Shim, "Attention-based Dropout Layer for Weakly Supervised Object Localization", CVPR 2019.

CAM, but while it learns the features of the last stages, or of chosen layers, are multiplied with a map that is made of
themselves, their mean over channels: either it hides the strongest places, so that the classifier has to look
elsewhere, or it stresses them. Which one is drawn for every step and layer. Afterwards the network is as it was.
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
    """CAM whose last stages or chosen layers hide or stress what is strongest, while it learns.

    Its arguments are those of `CAM`.

    Raises:
        BadInput: the network is no convolutional one, has too few stages, or no layer of such a name.
    """

    Settings = ADLSettings
    on_features = False  # it changes features on their way

    def __init__(self, backbone: str, weights: str, classes: Sequence[str], settings: ADLSettings, steps: int) -> None:
        super().__init__(backbone, weights, classes, settings, steps)
        if not self.backbone.local:
            raise BadInput(f"ADL changes layers of a convolutional network, and '{backbone}' is none; choose another.")
        self.places = settings.layers or self._ends(settings.stages, backbone)
        modules = self._found(self.places, backbone)
        if settings.layers:
            self._check(modules, backbone)
        for number, module in enumerate(modules):
            module.register_forward_hook(partial(self._change, number))

    def _ends(self, count: int, backbone: str) -> tuple[str, ...]:
        """The names of the ends of the last stages. An end that only pools, as VGG's last one, is left out."""
        modules = dict(self.backbone.network.named_modules())
        ends = [info["module"] for info in self.backbone.network.feature_info]
        ends = [end for end in ends if not isinstance(modules.get(end), nn.MaxPool2d | nn.Identity | None)]
        if len(ends) < count:
            raise BadInput(
                f"ADL changes {count} stages of a convolutional network, and '{backbone}' has none or too few; choose "
                "another backbone, or a smaller train.stages."
            )
        return tuple(ends[-count:])

    def _found(self, names: tuple[str, ...], backbone: str) -> list[nn.Module]:
        known = dict(self.backbone.network.named_modules())
        known.pop("")
        for name in names:
            if name not in known:
                near = nearest(name, list(known)) or f"; it has {', '.join(list(known)[-3:])}, and others."
                raise BadInput(f"train.layers: '{backbone}' has no layer '{name}'{near}")
        if len(set(names)) < len(names):
            raise BadInput(f"train.layers: {', '.join(names)} names a layer twice; once is enough.")
        return [known[name] for name in names]

    @torch.no_grad()
    def _check(self, modules: list[nn.Module], backbone: str) -> None:
        """Refuses layers that the features do not pass, or whose rows and columns are not the last two axes."""
        shapes: dict[nn.Module, list[tuple[int, ...]]] = {module: [] for module in modules}

        def look(module: nn.Module, _: Any, output: Any) -> None:
            shapes[module].append(tuple(output.shape) if isinstance(output, torch.Tensor) else ())

        hooks = [module.register_forward_hook(look) for module in modules]
        training = self.backbone.training
        for size in ((64, 64), (64, 128)):
            pixels = next(self.backbone.parameters()).new_zeros(1, 3, *self.backbone.grid.fit(*size))
            self.backbone.eval()(pixels)
        self.backbone.train(training)
        for hook in hooks:
            hook.remove()
        for name, module in zip(self.places, modules, strict=True):
            first, *others = shapes[module] or [()]
            if len(first) != 4 or [shape[:3] for shape in others] != [first[:3]] or others[0][3] <= first[3]:
                raise BadInput(f"train.layers: '{name}' of '{backbone}' gives no features of places; choose others.")

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
