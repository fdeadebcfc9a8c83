"""Class maps from words: where CLIP says that a patch is described by the name of a class.

The value path of CLIP's last block (Zhou et al., "Extract Free Dense Labels from CLIP", ECCV 2022, section 3.2) gives
every patch a place among texts. A class competes with the backgrounds that people have words for, and with the other
classes of the photograph (Lin et al., "CLIP is Also an Efficient Segmenter", CVPR 2023, section 3.2). Nothing is learnt
here, and no text is understood here: embeddings come from a file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from torch.nn import functional as F

from tagseg.errors import BadInput, brief, nearest
from tagseg.networks.backbone import read_weights

SCALE = 100.0  # by which CLIP multiplies cosines


def read_texts(path: Path, classes: Sequence[str]) -> torch.Tensor:
    """Reads the embeddings of the class names, then those of the backgrounds.

    The file is a `.safetensors` with the tensors `classes` and `background`, a row to a name, and with metadata of the
    same two keys, each a JSON list of these names. It may have more classes, in any order.

    Args:
        path: the file.
        classes: the C class names.

    Returns:
        `(C + K, E)` float32, unit vectors.

    Raises:
        BadInput: there is no such file, it is of another kind, or a class is missing.
    """
    mend = "make it as docs/texts.md says"
    if not path.is_file():
        raise BadInput(f"{path}: there is no such file of text embeddings; {mend}.")
    try:
        with safe_open(path, framework="pt") as file:
            said, vectors = file.metadata() or {}, {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
        names = {key: [str(name) for name in json.loads(said[key])] for key in ("classes", "background")}
        known, grounds = vectors["classes"], vectors["background"]
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{path}: this is no file of text embeddings ({brief(error)}); {mend}.") from error
    for key in names:
        rows = vectors[key]
        if rows.ndim != 2 or len(rows) != len(names[key]) or not len(rows):
            raise BadInput(
                f"{path}: '{key}' has {len(names[key])} names and vectors of shape {tuple(rows.shape)}; "
                "give one row for each name, and at least one."
            )
        if not rows.isfinite().all() or not (rows.norm(dim=1) > 0).all():
            raise BadInput(f"{path}: '{key}' has a vector that is zero or not finite; {mend}.")
    if known.shape[1] != grounds.shape[1]:
        raise BadInput(f"{path}: classes have {known.shape[1]} numbers each, backgrounds {grounds.shape[1]}; {mend}.")
    missing = [name for name in classes if name not in names["classes"]]
    if missing:
        raise BadInput(
            f"{path}: the class '{missing[0]}' has no embedding{nearest(missing[0], names['classes']) or '.'} "
            f"{len(missing)} of {len(classes)} classes are missing; {mend}."
        )
    rows = known[[names["classes"].index(name) for name in classes]]
    return F.normalize(torch.cat([rows, grounds]), dim=1)


def read_projection(name: str, weights: str, depth: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Reads the layer that brings an image tower's patches to the texts' space, which timm calls its head.

    Args:
        name, weights: of the tower; see `tagseg.networks.backbone.Backbone`.
        depth: D, channels of a patch.
        size: E, numbers of a text.

    Returns:
        `(E, D)` and `(E,)`.

    Raises:
        BadInput: the tower's weights have no such layer of this size.
    """
    if weights == "random":
        return torch.randn(size, depth) / depth**0.5, torch.zeros(size)
    state = (
        timm.create_model(name, pretrained=True).state_dict()
        if weights == "pretrained"
        else read_weights(Path(weights))
    )
    matrix = state.get("head.weight")
    shape = None if matrix is None else tuple(matrix.shape)
    if matrix is None or shape != (size, depth):
        raise BadInput(
            f"data.texts: texts of {size} numbers do not belong to the image tower '{name}' (its head is {shape}, "
            f"not {(size, depth)}); take the texts of the same CLIP, and a name like vit_base_patch16_clip_224.openai."
        )
    return matrix.float(), state.get("head.bias", torch.zeros(size)).float()


class TextMatcher(nn.Module):
    """Compares patches with texts.

    What it holds is given by `set`, or comes with its saved state, whatever the sizes.

    Args:
        num_classes: C; texts after those are backgrounds.
    """

    texts: torch.Tensor
    matrix: torch.Tensor
    bias: torch.Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        for name, size in (("texts", (0, 0)), ("matrix", (0, 0)), ("bias", (0,))):
            self.register_buffer(name, torch.zeros(size))

    def set(self, texts: torch.Tensor, matrix: torch.Tensor, bias: torch.Tensor) -> None:
        """Gives the texts `(C + K, E)`, and the layer `(E, D)`, `(E,)` that brings patches to them."""
        self.texts, self.matrix, self.bias = texts, matrix, bias

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Returns by how much each class describes a patch better than all backgrounds together.

        These are log odds: log p(class) - log p(background) of the softmax over scaled cosines.

        Args:
            values: `(B, D, h, w)`, patches of the value path.

        Returns:
            `(B, C, h, w)` float32.
        """
        with torch.autocast(values.device.type, enabled=False):  # cosines of 16 bits are too coarse for an exponent
            places = F.normalize(values.float().permute(0, 2, 3, 1) @ self.matrix.T + self.bias, dim=-1)
            scores = SCALE * (places @ self.texts.T).permute(0, 3, 1, 2)
            classes, grounds = scores[:, : self.num_classes], scores[:, self.num_classes :]
            return classes - grounds.logsumexp(dim=1, keepdim=True)

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        for name in ("texts", "matrix", "bias"):
            if prefix + name in state:
                setattr(self, name, torch.empty_like(state[prefix + name], device=self.texts.device))
        super()._load_from_state_dict(state, prefix, *rest)


def probabilities(odds: torch.Tensor, tags: torch.Tensor) -> torch.Tensor:
    """Returns the probabilities of the given classes among each other and the background.

    Args:
        odds: log odds against the background, `(B, C, h, w)`.
        tags: `(B, C)` multi-hot.

    Returns:
        `(B, C, h, w)`, 0 for classes that are not given.
    """
    absent = ~tags.bool()[:, :, None, None]
    with_background = F.pad(odds.masked_fill(absent, -torch.inf), (0, 0, 0, 0, 1, 0))
    return with_background.softmax(dim=1)[:, 1:]
