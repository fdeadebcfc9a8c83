"""Calling a stranger's network: with several inputs, and from what it returns to class scores.

The image may be one of several inputs, `(image, text)` or `{"pixel_values": images, "input_ids": ids}`; those that have
a row for each image go with it. A score function may ask which images it is about, as the second argument.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tagseg.errors import BadInput

Score = Callable[..., torch.Tensor]
Inputs = tuple[Any, ...] | list[Any] | dict[str, Any]


class Caller:
    """A network, how it is called, and how class scores are read of what it returns.

    Args:
        model: the network, unwrapped.
        score: from what it returns to scores `(B, C)`, or from that and the rows of the images, `(B,)` long, among
            those that were given; None when it returns scores.
        inputs: all that the network is called with, the images among them; None for the images alone.
        images: those of `inputs`, by which they are found.

    Raises:
        BadInput: the images are not among the inputs.
    """

    def __init__(
        self,
        model: nn.Module,
        score: Score | None = None,
        inputs: Inputs | None = None,
        images: torch.Tensor | None = None,
    ) -> None:
        self.model, self.score, self.inputs = model, score, inputs
        self.count = 0 if images is None else len(images)
        self._two = score is not None and _takes_two(score)
        self._place: Any = None
        if inputs is not None:
            items = list(inputs.items()) if isinstance(inputs, dict) else list(enumerate(inputs))
            self._place = next((key for key, value in items if value is images), None)
            if self._place is None:
                raise BadInput("inputs: the images must be one of them, the same tensor that is given as images.")

    def __call__(self, images: torch.Tensor, rows: torch.Tensor | None = None) -> Any:
        """Returns what the network gives for `images`, which belong to these rows of the ones given; None: to all."""
        if self.inputs is None:
            return self.model(images)

        def part(key: Any, value: Any) -> Any:
            if key == self._place:
                return images
            of_images = isinstance(value, torch.Tensor) and value.ndim > 0 and len(value) == self.count
            if rows is None or not of_images:
                return value
            return value[rows.to(value.device)]

        if isinstance(self.inputs, dict):
            return self.model(**{key: part(key, value) for key, value in self.inputs.items()})
        return self.model(*(part(key, value) for key, value in enumerate(self.inputs)))

    def scores(self, output: Any, images: int, rows: torch.Tensor | None = None) -> torch.Tensor:
        """Returns the class scores `(B, C)` in what the network returned for so many images.

        Raises:
            BadInput: there are none, and how to say where they are.
        """
        if self.score is not None:
            output = (
                self.score(output, torch.arange(images) if rows is None else rows) if self._two else self.score(output)
            )
        elif not isinstance(output, torch.Tensor):
            keys = ", ".join(map(str, output)) if isinstance(output, dict) else ""
            has = f"a dict with {keys}" if isinstance(output, dict) else f"a {type(output).__name__}"
            raise BadInput(
                f"the model returns {has}; say which part holds the class scores, "
                "for example score=lambda output: output['logits']."
            )
        if not isinstance(output, torch.Tensor) or output.ndim != 2 or output.shape[0] != images:
            shape = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
            raise BadInput(
                f"class scores must be (B, C), one row per image, not {shape}; give score=..., for class maps "
                "for example score=lambda maps: maps.mean(dim=(2, 3))."
            )
        return output


def _takes_two(score: Score) -> bool:
    """Whether a function takes, and needs, a second argument."""
    try:
        found = inspect.signature(score).parameters.values()
    except (TypeError, ValueError):
        return False
    places = [p for p in found if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty]
    return len(places) == 2
