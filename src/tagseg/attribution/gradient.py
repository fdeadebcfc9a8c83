"""Grad-CAM, Grad-CAM++, LayerCAM and NormGrad: maps from activations and the gradients of class scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import nn

from tagseg.attribution import formulas
from tagseg.attribution.calling import Caller, Inputs, Score
from tagseg.attribution.capture import Tape, check_classes, count_saved
from tagseg.attribution.formulas import Formula
from tagseg.attribution.fusion import Fused, Scaling
from tagseg.attribution.holding import undisturbed
from tagseg.attribution.layers import Layer, Layers, find_layers, known, unwrap
from tagseg.errors import BadInput

GIB = 1 << 30


class GradientMaps:
    """Maps of any formulas, layers and classes from one forward pass, and one backward pass to the activations.

    The network may be any classifier: compiled, wrapped for several devices, frozen, in half precision, with in-place
    operations; it comes out as it went in.

    Args:
        model: `(B, 3, H, W) -> (B, C)` scores before the softmax, or anything that `score` makes that of.
        layers: see `tagseg.attribution.layers.find_layers`.
        formulas: name to function of `tagseg.attribution.formulas`.
        score: from what the network returns to `(B, C)`, or from that and the images' rows; see
            `tagseg.attribution.calling.Caller`.
        memory: bytes that recorded activations and gradients may take; more images than fit are done in turns. One
            image is the least.

    Raises:
        BadInput: see `find_layers`, and on the call for images, classes and layers that do not fit.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Layers,
        formulas: Mapping[str, Formula],
        *,
        score: Score | None = None,
        memory: int = 4 * GIB,
    ) -> None:
        self.model, self.wanted, self.formulas = unwrap(model), layers, dict(formulas)
        self.score, self.memory = score, memory
        self._tape: Tape | None = None
        self._bytes: dict[tuple[int, ...], int] = {}

    def __call__(
        self, images: torch.Tensor, classes: Any = None, *, inputs: Inputs | None = None
    ) -> dict[str, list[torch.Tensor]]:
        """Returns the maps of the pre-softmax scores.

        Args:
            images: `(B, 3, H, W)`, normalised as the network wants.
            classes: `(B, K)` class numbers, K numbers for all images, None for each image's highest score, or a
                function from the scores `(B, C)` to `(B, K)`.
            inputs: all that the network is called with, a tuple or a dict, `images` among them; None for the images
                alone.

        Returns:
            for every formula one `(B, K, h, w)` per layer, float32, unnormalised.
        """
        return self.with_scores(images, classes, inputs=inputs)[1]

    def with_scores(
        self, images: torch.Tensor, classes: Any = None, *, inputs: Inputs | None = None
    ) -> tuple[torch.Tensor, dict[str, list[torch.Tensor]]]:
        """Returns the scores `(B, C)` and the maps of one forward pass.

        Arguments and maps are those of the call.
        """
        caller = Caller(self.model, self.score, inputs, images)
        images = prepare(self.model, images)
        size = (images.shape[2], images.shape[3])
        parts: list[tuple[torch.Tensor, list[list[torch.Tensor]]]] = []
        with undisturbed(self.model):
            tape = self._open(caller, images)
            fitting = self._fitting(tape, images)
            for done in range(0, len(images), fitting):
                chunk = images[done : done + fitting]
                recorded = tape.forward(chunk, torch.arange(done, done + len(chunk)))
                chosen = check_classes(part_of(classes, done, len(chunk), len(images)), recorded.scores)
                maps = tape.backward(recorded, chosen, list(self.formulas.values()), size)
                parts.append((recorded.scores.detach(), maps))
        scores = torch.cat([scores for scores, _ in parts])
        return scores, {
            name: [torch.cat([maps[n][f] for _, maps in parts]) for n in range(len(tape.layers))]
            for f, name in enumerate(self.formulas)
        }

    @property
    def layers(self) -> list[Layer]:
        """Returns the layers whose maps are made; they are known after the first call."""
        return known(None if self._tape is None else self._tape.layers)

    def _open(self, caller: Caller, images: torch.Tensor) -> Tape:
        if self._tape is None:
            self._tape = Tape(caller, find_layers(self.model, self.wanted, images, caller))
        self._tape.caller = caller
        return self._tape

    def _fitting(self, tape: Tape, images: torch.Tensor) -> int:
        """Images whose graph, with gradients in flight of at most the same size, stays within `memory`.

        What one image takes is found out by recording the first of every new size once.
        """
        shape = images.shape[1:]
        if len(images) == 1:
            return 1
        if shape not in self._bytes:
            try:
                with count_saved(self.model) as total:
                    tape.forward(images[:1], torch.zeros(1, dtype=torch.long))
            except Exception:  # a network of a fixed number of images
                return len(images)
            self._bytes[shape] = max(1, total[0])
        return max(1, self.memory // (2 * self._bytes[shape]))


class _Attribution(Fused):
    """What the methods share that are a formula of activations and gradients."""

    formula: Formula

    def __init__(
        self,
        model: nn.Module,
        layers: Layers = "last",
        *,
        score: Score | None = None,
        scaling: Scaling = "tanh",
        gamma: float = 2.0,
        memory: int = 4 * GIB,
    ) -> None:
        super().__init__(scaling, gamma)
        self.maps = GradientMaps(model, layers, {"map": self.formula}, score=score, memory=memory)

    def layer_maps(
        self, images: torch.Tensor, classes: Any = None, *, inputs: Inputs | None = None
    ) -> list[torch.Tensor]:
        """Returns one `(B, K, h, w)` per layer, unnormalised; see `GradientMaps.__call__`."""
        return self.maps(images, classes, inputs=inputs)["map"]

    @property
    def layers(self) -> list[Layer]:
        """Returns the layers whose maps are made; they are known after the first call."""
        return self.maps.layers


class GradCAM(_Attribution):
    """The method Grad-CAM (Selvaraju et al., ICCV 2017).

    It takes the arguments of `LayerCAM` without `relu_gradients`.
    """

    formula = staticmethod(formulas.grad_cam)


class GradCAMPlusPlus(_Attribution):
    """The method Grad-CAM++ (Chattopadhay et al., WACV 2018).

    It takes the arguments of `LayerCAM` without `relu_gradients`. `compat="official"` adds the public packages' 1e-6 to
    the denominator of alpha.
    """

    formula = staticmethod(formulas.grad_cam_plus_plus)

    def __init__(
        self,
        model: nn.Module,
        layers: Layers = "last",
        *,
        compat: Literal["paper", "official"] = "paper",
        **options: Any,
    ) -> None:
        if compat == "official":
            self.formula = formulas.grad_cam_plus_plus_official
        super().__init__(model, layers, **options)


class LayerCAM(_Attribution):
    """The method LayerCAM (Jiang et al., TIP 2021).

        maps = LayerCAM(model, layers="stages")(images, classes)    # (B, K, H, W) in [0, 1]

    Args:
        model: any classifier; see `GradientMaps`.
        layers: names, modules, `"stages"` or `"last"`; with several the maps are fused.
        relu_gradients: False is the paper's ablation "LayerCAM-normal".
        score: from what the network returns to the scores `(B, C)`; None when it returns them.
        scaling, gamma: of all layers but the deepest, see `tagseg.attribution.fusion.scale`.
        memory: bound in bytes; see `GradientMaps`.
    """

    formula = staticmethod(formulas.layer_cam)

    def __init__(
        self, model: nn.Module, layers: Layers = "last", *, relu_gradients: bool = True, **options: Any
    ) -> None:
        if not relu_gradients:
            self.formula = formulas.layer_cam_normal
        super().__init__(model, layers, **options)


class NormGrad(_Attribution):
    """The method NormGrad (Rebuffi et al., CVPR 2020).

    It takes the arguments of `LayerCAM` without `relu_gradients`.
    """

    formula = staticmethod(formulas.norm_grad)


class XGradCAM(_Attribution):
    """The method XGrad-CAM (Fu et al., BMVC 2020).

    It takes the arguments of `LayerCAM` without `relu_gradients`.
    """

    formula = staticmethod(formulas.xgrad_cam)


class HiResCAM(_Attribution):
    """The method HiRes-CAM (Draelos and Carin, 2020), which is LayerCAM's ablation "LayerCAM-normal".

    It takes the arguments of `LayerCAM` without `relu_gradients`.
    """

    formula = staticmethod(formulas.layer_cam_normal)


class EigenCAM(_Attribution):
    """The method Eigen-CAM (Muhammad and Yeasin, IJCNN 2020), the same for every class.

    It takes the arguments of `LayerCAM` without `relu_gradients`.
    """

    formula = staticmethod(formulas.eigen_cam)


def prepare(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Returns the images on the model's device, in its precision, outside inference mode.

    Raises:
        BadInput: they are not `(B, 3, H, W)` floats, or hold NaN or infinity.
    """
    if not isinstance(images, torch.Tensor) or images.ndim != 4 or not images.is_floating_point():
        what = f"{tuple(images.shape)} {images.dtype}" if isinstance(images, torch.Tensor) else type(images).__name__
        raise BadInput(f"images must be a float tensor (B, 3, H, W), normalised as the network wants, not {what}.")
    if not len(images):
        raise BadInput("images hold no image; give at least one.")
    if not torch.isfinite(images).all():
        raise BadInput("images hold NaN or infinity; look at how they were read and normalised.")
    # a temperature or a scale may have another precision than the weights; weights that were put aside have no device
    floats = [p for p in model.parameters() if p.is_floating_point() and p.device.type != "meta"]
    first = next((p for p in floats if p.ndim > 1), next(iter(floats), None))
    with torch.inference_mode(False):
        images = images.clone() if images.is_inference() else images.detach()
        return images if first is None else images.to(device=first.device, dtype=first.dtype)


def part_of(classes: Any, start: int, count: int, images: int) -> Any:
    """Returns the rows of `classes (B, K)` that belong to a chunk of images; anything else is for all alike."""
    if classes is None or callable(classes):
        return classes
    chosen = torch.as_tensor(classes)
    if chosen.ndim == 2 and len(chosen) == images:
        return chosen[start : start + count]
    if chosen.ndim == 2:
        raise BadInput(f"classes of shape {tuple(chosen.shape)} do not fit {images} images; give (B, K) numbers.")
    return chosen
