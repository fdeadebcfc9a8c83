"""The network that people take home: a folder of `model.safetensors` and `model.json`, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_args

import numpy as np
import torch
from pydantic import BaseModel, Field, FiniteFloat, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from tagseg.data.images import ImageLike, to_photograph
from tagseg.data.loading import normalise
from tagseg.data.views import resize, whole
from tagseg.errors import BadInput, brief
from tagseg.files import read_json, write_aside, write_json
from tagseg.grid import PIXELS
from tagseg.labels import MAX_CLASSES
from tagseg.networks.backbone import Backbone, on_canvas
from tagseg.networks.features import Levels
from tagseg.networks.precision import default_device, inference_autocast
from tagseg.segmentation.decoder import FrozenSegmenter
from tagseg.segmentation.deeplab import DeepLab, DeepLabPair
from tagseg.segmentation.saved import DESCRIPTION, WEIGHTS, find_model
from tagseg.segmentation.settings import NO_CRF, HeadName, PredictSettings
from tagseg.settings import SidePixels, parse

FORMAT = 1
_AT_ONCE = 1 << 26  # probabilities that are held at a time: 256 MB; of more only a mask is made, in bands of
_BAND = 1 << 23
_CRF_PIXELS = 1 << 20  # of larger photographs a smaller copy is sharpened
Deviation = Annotated[float, Field(gt=0, lt=1e6)]


class SegmentationModel:
    """A trained segmentation network with the names of its classes.

    Args:
        network: the network.
        classes: the C class names, background left out.
        side: long side, in pixels, at which photographs are looked at.
        protocol: how they are looked at, where nothing else is said; None: once, and nothing follows.
    """

    def __init__(
        self,
        network: DeepLab | DeepLabPair | FrozenSegmenter,
        classes: tuple[str, ...],
        side: int,
        protocol: PredictSettings | None = None,
    ) -> None:
        self.network, self.classes, self.side = network.eval(), classes, side
        self.protocol = protocol or PredictSettings()
        self.to(default_device())

    def to(self, device: torch.device | str) -> SegmentationModel:
        """Moves the network to a device; returns the model itself."""
        self.device = torch.device(device)
        self.network.to(self.device).to(memory_format=torch.channels_last)
        return self

    def predict(
        self,
        image: ImageLike,
        *,
        side: int | str | None = None,
        scales: Sequence[float] | None = None,
        flip: bool | None = None,
        fuse: str | None = None,
        crf: str | None = None,
    ) -> np.ndarray:
        """Returns the class of every pixel: `(H, W)` uint8, 0 background, class c at c + 1.

        What is None is as the model's own `protocol` has it.

        Args:
            image: of any size; see `tagseg.data.images.to_photograph`.
            side: long side of the photograph at scale 1, pixels; "trained", that of the training; "own", its own.
            scales: sizes to look at, relative to `side`.
            flip: look at the mirrored photograph too.
            fuse: "mean" of the probabilities of all sizes; "max", the largest logits; or "max-sum", these of a
                photograph and its mirror image added.
            crf: sharpen with the dense CRF of these parameters, a name of `tagseg.masks.crf_parameters.CRFS`; "none".
                Of photographs of more than one megapixel a smaller copy is sharpened.

        Raises:
            BadInput: the image cannot be used, or a value is none of these.
        """
        photo = to_photograph(image)
        how = self.how(side=side, scales=scales, flip=flip, fuse=fuse, crf=crf)
        seen, size = self._seen(photo, how), photo.shape[:2]
        if how.crf != NO_CRF:
            return self._sharpened(photo, seen, how)
        if (len(self.classes) + 1) * size[0] * size[1] <= _AT_ONCE:
            return _strongest(self._fused(seen, how, size))
        return _in_bands(len(self.classes) + 1, size, lambda rows: self._fused(seen, how, size, rows))

    def _sharpened(self, photo: np.ndarray, seen: list[torch.Tensor], how: PredictSettings) -> np.ndarray:
        """The mask after a CRF, whose reach in pixels is meant for photographs of half a megapixel: of one that has
        more than `_CRF_PIXELS`, a smaller copy is sharpened, and the borders of its mask are interpolated."""
        from tagseg.masks.crf import crf_mask

        size = photo.shape[:2]
        shrink = min(1.0, (_CRF_PIXELS / (size[0] * size[1])) ** 0.5)
        small = photo if shrink == 1 else resize(whole(photo), PIXELS.fit(size[0] * shrink, size[1] * shrink)).image
        probabilities = self._fused(seen, how, small.shape[:2]).cpu().numpy()
        mask = crf_mask(small, probabilities, how.crf, device=self.device)
        if shrink == 1:
            return mask
        labels = np.flatnonzero(np.bincount(mask.ravel()))
        layers = torch.from_numpy((mask == labels[:, None, None]).astype(np.float32))[None]
        return labels.astype(np.uint8)[
            _in_bands(len(labels), size, lambda rows: PIXELS.resize_rows(layers, size, rows)[0])
        ]

    def probabilities(
        self,
        image: ImageLike,
        *,
        side: int | str | None = None,
        scales: Sequence[float] | None = None,
        flip: bool | None = None,
        fuse: str | None = None,
    ) -> np.ndarray:
        """Returns the probabilities of all classes, which sum to one at every pixel, before any CRF.

        They are `(C + 1, H, W)` float32; the arguments are those of `predict`.
        """
        how = self.how(side=side, scales=scales, flip=flip, fuse=fuse)
        return self._probabilities(to_photograph(image), how).cpu().numpy()

    def on_cells(self, image: ImageLike) -> np.ndarray:
        """Returns the probabilities of all classes on the network's own cells, of one look as in the training.

        They are `(C + 1, h, w)` float32.
        """
        return self._seen(to_photograph(image), PredictSettings())[0][0].cpu().numpy()

    def how(self, **changes: Any) -> PredictSettings:
        """Returns the model's protocol with changes; those that are None change nothing.

        Raises:
            BadInput: there is no such field or value.
        """
        given = {name: value for name, value in changes.items() if value is not None}
        found: PredictSettings = parse(PredictSettings, {**self.protocol.model_dump(), **given}, "prediction")
        return found

    def _probabilities(self, photo: np.ndarray, how: PredictSettings) -> torch.Tensor:
        return self._fused(self._seen(photo, how), how, photo.shape[:2])

    @torch.inference_mode()
    def _seen(self, photo: np.ndarray, how: PredictSettings) -> list[torch.Tensor]:
        """What the network says at every scale, on its cells: probabilities or logits, `(1, C + 1, h, w)`."""
        height, width = photo.shape[:2]
        backbone = self.network.backbone
        side = {"trained": self.side, "own": max(height, width)}.get(str(how.side), how.side)
        found = []
        for scale in how.scales:
            factor = cast(int, side) * scale / max(height, width)
            size = backbone.grid.fit(height * factor, width * factor)
            pixels = normalise(resize(whole(photo), size).image, backbone)[None].to(self.device)
            if how.flip:
                pixels = torch.cat([pixels, pixels.flip(-1)])
            with inference_autocast(self.device):
                pixels = pixels.contiguous(memory_format=torch.channels_last)
                stride = self.network.stride
                logits = on_canvas(self.network, pixels, stride, batch=len(pixels), local=self.network.local)
            seen = F.softmax(logits.float(), dim=1) if how.fuse == "mean" else logits.float()
            if how.flip:
                seen = (seen[:1] + seen[1:].flip(-1)) * (1 if how.fuse == "max-sum" else 0.5)
            found.append(seen)
        return found

    @torch.inference_mode()
    def _fused(
        self, seen: list[torch.Tensor], how: PredictSettings, size: tuple[int, int], band: slice | None = None
    ) -> torch.Tensor:
        """The probabilities `(C + 1, H, W)` of what the network says at every scale, or a band of their rows."""
        grid = self.network.backbone.grid
        merged = torch.add if how.fuse == "mean" else torch.maximum
        total: torch.Tensor | None = None
        for scale in seen:
            found = (grid.resize(scale, size) if band is None else grid.resize_rows(scale, size, band))[0]
            total = found if total is None else merged(total, found)
        assert total is not None
        return total / len(how.scales) if how.fuse == "mean" else total.softmax(dim=0)

    def save(self, folder: Path) -> None:
        """Writes `model.safetensors`, then `model.json`; each whole or not at all."""
        backbone = self.network.backbone
        with write_aside(folder / WEIGHTS) as aside:
            save_file({k: v.contiguous().cpu() for k, v in self.network.state_dict().items()}, aside)
        told = {
            "format": FORMAT,
            "task": "segmentation",
            "classes": list(self.classes),
            "architecture": self._architecture(),
            "input": {"side": self.side, "mean": list(backbone.mean), "std": list(backbone.std)},
        }
        write_json(folder / DESCRIPTION, with_protocol(told, self.protocol))

    def _architecture(self) -> dict[str, Any]:
        network, backbone = self.network, self.network.backbone
        described: dict[str, Any] = {"backbone": backbone.name, "output_stride": backbone.output_stride}
        if isinstance(network, FrozenSegmenter):
            described |= {"width": network.head.width, "layers": network.head.layers}
        if isinstance(network, DeepLabPair):
            described |= {"networks": 2}
        return described | {"head": network.head_name}


def _in_bands(labels: int, size: tuple[int, int], scores: Callable[[slice], torch.Tensor]) -> np.ndarray:
    """The strongest of the labels at every pixel, a band of rows at a time: all scores would take gigabytes."""
    mask = np.empty(size, dtype=np.uint8)
    rows = max(1, _BAND // (labels * size[1]))
    for start in range(0, size[0], rows):
        band = slice(start, min(start + rows, size[0]))
        mask[band] = _strongest(scores(band))
    return mask


def _strongest(probabilities: torch.Tensor) -> np.ndarray:
    """The class of every pixel; argmax is many times slower on a CPU."""
    return probabilities.max(dim=0).indices.to(torch.uint8).cpu().numpy()


def load(path: str | os.PathLike[str]) -> SegmentationModel:
    """Opens a trained model: the folder of a run, or any folder with `model.json` and `model.safetensors`.

    Nothing is unpickled and nothing is downloaded.

    Raises:
        BadInput: there is no model there, or its files are damaged.
    """
    folder = find_model(path)
    try:
        described = ModelDescription.model_validate(read_json(folder / DESCRIPTION))
        if described.format != FORMAT:
            raise BadInput(f"{folder / DESCRIPTION}: format {described.format} is not known; update tagseg.")
        network = _network(described.architecture, len(described.classes))
        network.backbone.mean, network.backbone.std = described.input.mean, described.input.std
        state = load_file(folder / WEIGHTS)
        wrong = next((name for name, values in state.items() if not values.isfinite().all()), None)
        if wrong is not None:
            raise BadInput(f"{folder / WEIGHTS}: the weights '{wrong}' hold numbers that are not finite; train again.")
        network.load_state_dict(state)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise BadInput(f"{folder / DESCRIPTION}: '{key}' cannot be ({first['msg']}); make the model again.") from error
    except (ValueError, KeyError, TypeError, RuntimeError, OSError, SafetensorError) as error:
        raise BadInput(
            f"{folder}: the model's files are damaged or do not belong together ({brief(error)})."
        ) from error
    return SegmentationModel(network, described.classes, described.input.side, described.protocol)


def with_protocol(described: dict[str, Any], protocol: PredictSettings) -> dict[str, Any]:
    """Returns what `model.json` is to say, so that its network looks at photographs by a protocol."""
    other = {key: value for key, value in described.items() if key != "protocol"}
    return other if protocol.plain else {**other, "protocol": protocol.model_dump(mode="json")}


class ModelArchitecture(BaseModel):
    """What `model.json` says of the network; `width` and `layers` are those of a decoder of frozen features.

    Of two `networks` the logits are averaged.
    """

    backbone: str
    head: str
    output_stride: Literal[8, 16, 32] | None = None
    width: Annotated[int, Field(ge=1, le=1 << 14)] = 1
    layers: Annotated[int, Field(ge=0, le=64)] = 0
    networks: Literal[1, 2] = 1


class ModelInput(BaseModel):
    """What `model.json` says of the photographs: their long side in pixels, and mean and deviation of a channel."""

    side: SidePixels
    mean: tuple[FiniteFloat, FiniteFloat, FiniteFloat]
    std: tuple[Deviation, Deviation, Deviation]


class ModelDescription(BaseModel):
    """What `model.json` says."""

    format: int
    classes: Annotated[tuple[str, ...], Field(min_length=1, max_length=MAX_CLASSES)]
    architecture: ModelArchitecture
    input: ModelInput
    protocol: PredictSettings = PredictSettings()


def _network(parts: ModelArchitecture, num_classes: int) -> DeepLab | DeepLabPair | FrozenSegmenter:
    if parts.head == FrozenSegmenter.head_name:
        return FrozenSegmenter(Levels(parts.backbone), num_classes, parts.width, parts.layers)
    if parts.head not in get_args(HeadName):
        raise ValueError(f"there is no head '{parts.head}'")
    single = [
        DeepLab(Backbone(parts.backbone, "random", parts.output_stride), cast(HeadName, parts.head), num_classes)
        for _ in range(parts.networks)
    ]
    return single[0] if parts.networks == 1 else DeepLabPair(*single)
