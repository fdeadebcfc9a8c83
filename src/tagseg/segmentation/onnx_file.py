"""A trained segmentation network as one ONNX file, which needs neither torch nor tagseg any more.

`image (B, H, W, 3)` uint8 RGB and `size (2,)` int64 go in, `probabilities (B, C + 1, height, width)` come out, with
normalisation, softmax and upsampling inside. H and W are of any size that the network's cells cover exactly; batch and
sizes may differ from call to call. What else somebody must know who has the file alone lies in its metadata under
"tagseg", as JSON.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from tagseg.errors import BadInput, brief
from tagseg.files import write_aside
from tagseg.segmentation.model import SegmentationModel

OPSET = 18
CHECKED = ((1, 1.0, 0.75), (2, 0.5, 1.0), (1, 1.3, 1.3))  # batch, and height and width over the model's side
TOLERANCE = 1e-3  # by which probabilities may differ from torch's
METADATA = "tagseg"
_FLOAT = 1  # ONNX's number of 32-bit floats


def save_onnx(model: SegmentationModel, path: Path) -> float:
    """Writes a network as ONNX, whole or not at all, and runs it beside torch at three sizes.

    Args:
        model: the network.
        path: of the file.

    Returns:
        the largest difference of a probability from torch's.

    Raises:
        BadInput: onnx or onnxruntime is missing, or the network has a part that ONNX cannot tell.
    """
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise BadInput("ONNX needs two packages more; install them with: pip install 'tagseg[onnx]'.") from error
    grid, side, device = model.network.backbone.grid, model.side, model.device
    model.to("cpu")
    try:
        whole = _Whole(model).eval()
        with write_aside(path) as aside:
            with _as_programs(model.network), warnings.catch_warnings(), torch.inference_mode():
                warnings.simplefilter("ignore")  # of what is fixed while the network is drawn; the check below tells
                try:
                    torch.onnx.export(
                        whole,
                        (_example(grid.fit(side / 2, side / 2), 1), torch.tensor([64, 48])),
                        str(aside),
                        dynamo=False,
                        opset_version=OPSET,
                        input_names=["image", "size"],
                        output_names=["probabilities"],
                        dynamic_axes={
                            "image": {0: "batch", 1: "height", 2: "width"},
                            "probabilities": {0: "batch", 2: "out_height", 3: "out_width"},
                        },
                    )
                except Exception as error:  # the exporter has no common one
                    raise BadInput(f"This network cannot be written as ONNX ({brief(error)}).") from error
            described = onnx.load(aside)
            onnx.helper.set_model_props(described, {METADATA: json.dumps(_told(model))})
            onnx.save(described, aside)
            session = onnxruntime.InferenceSession(str(aside), providers=["CPUExecutionProvider"])
            difference = max(_difference(whole, session, grid.fit(h * side, w * side), b) for b, h, w in CHECKED)
            if not difference < TOLERANCE:
                raise BadInput(f"This network as ONNX does not say what it says here (by {difference:.2g}).")
    finally:
        model.to(device)
    return difference


def save_int8(path: Path, target: Path) -> None:
    """Writes an ONNX file again with weights of 8 bits, whole or not at all: a quarter of the size."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.disable(logging.WARNING)  # of what it would have prepared first, and has no type of
    try:
        with write_aside(target) as aside:
            quantize_dynamic(
                str(path), str(aside), weight_type=QuantType.QUInt8, extra_options={"DefaultTensorType": _FLOAT}
            )
    finally:
        logging.disable(logging.NOTSET)


def _told(model: SegmentationModel) -> dict[str, Any]:
    grid = model.network.backbone.grid
    return {
        "classes": ["background", *model.classes],
        "side": model.side,
        "stride": grid.stride,
        "corners": grid.corners,
    }


def _example(size: tuple[int, int], batch: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (batch, *size, 3), dtype=torch.uint8, generator=generator)


def _difference(whole: nn.Module, session: Any, size: tuple[int, int], batch: int) -> float:
    image, out = _example(size, batch), torch.tensor([size[0] + 17, size[1] - 5])
    try:
        with torch.inference_mode():
            right = whole(image, out).numpy()
        found = session.run(None, {"image": image.numpy(), "size": out.numpy()})[0]
    except Exception as error:  # of either side
        raise BadInput(f"This network as ONNX does not go with {size} pixels ({brief(error)}).") from error
    return float(np.abs(found - right).max()) if found.shape == right.shape else float("inf")


class _Whole(nn.Module):
    """A network with what stands before and behind it: `(B, H, W, 3)` uint8 and `(2,)` -> probabilities."""

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, model: SegmentationModel) -> None:
        super().__init__()
        backbone = model.network.backbone
        self.network, self.corners = model.network, backbone.grid.corners
        mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in (backbone.mean, backbone.std))
        self.register_buffer("scale", 1 / (255 * deviation))
        self.register_buffer("shift", mean / deviation)

    def forward(self, image: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
        pixels = image.permute(0, 3, 1, 2).float() * self.scale - self.shift
        found = self.network(pixels).float().softmax(dim=1)
        return F.interpolate(found, size=(size[0], size[1]), mode="bilinear", align_corners=self.corners)  # type: ignore[arg-type]


class _Layer(nn.Module):
    """A layer of torch's transformer in plain steps, of any number of tokens: torch's own fixes that when drawn."""

    def __init__(self, layer: nn.TransformerEncoderLayer) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        layer, attention = self.layer, self.layer.self_attn
        heads = attention.num_heads
        packed = F.linear(layer.norm1(tokens), attention.in_proj_weight, attention.in_proj_bias)
        queries, keys, values = (part.unflatten(2, (heads, -1)).transpose(1, 2) for part in packed.chunk(3, dim=-1))
        weights = (queries @ keys.transpose(2, 3) * (queries.shape[-1] ** -0.5)).softmax(dim=-1)
        tokens = tokens + attention.out_proj((weights @ values).transpose(1, 2).flatten(2))
        return tokens + layer.linear2(layer.activation(layer.linear1(layer.norm2(tokens))))


@contextmanager
def _as_programs(network: nn.Module) -> Iterator[None]:
    """While this lasts, parts that torch draws for one size only are replaced with equals that go with any."""
    layers = [
        (parent, name, child)
        for parent in network.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.TransformerEncoderLayer)
    ]
    timm_parts = [
        module
        for name, module in sys.modules.items()
        if name.startswith("timm.models.") and hasattr(module, "resample_abs_pos_embed")
    ]
    before = [module.resample_abs_pos_embed for module in timm_parts]
    for parent, name, child in layers:
        setattr(parent, name, _Layer(child))
    for module in timm_parts:
        module.resample_abs_pos_embed = _resampled  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for parent, name, child in layers:
            setattr(parent, name, child)
        for module, function in zip(timm_parts, before, strict=True):
            module.resample_abs_pos_embed = function  # type: ignore[attr-defined]


def _resampled(positions: torch.Tensor, new_size: Any, *_: Any, num_prefix_tokens: int = 1, **__: Any) -> torch.Tensor:
    """What timm's `resample_abs_pos_embed` gives, by products with matrices: `(1, p + n n, D) -> (1, p + h w, D)`."""
    prefix, grid = positions[:, :num_prefix_tokens], positions[:, num_prefix_tokens:]
    side = round(float(grid.shape[1]) ** 0.5)
    grid = grid.unflatten(1, (side, side))
    down, across = (_cubic(side, cells) for cells in new_size)
    grid = torch.einsum("wj,bhjd->bhwd", across, torch.einsum("hi,bijd->bhjd", down, grid))
    return torch.cat([prefix, grid.flatten(1, 2)], dim=1)


def _cubic(cells: int, wanted: Any) -> torch.Tensor:
    """The weights of bicubic interpolation with antialiasing, a = -0.5, as torch has them: `(wanted, cells)`."""
    count = torch.as_tensor(wanted, dtype=torch.float32)
    scale = cells / count
    support = scale.clamp(min=1.0)
    centres = (torch.arange(count.to(torch.int64)).float() + 0.5) * scale  # type: ignore[call-overload]
    away = ((torch.arange(cells).float() + 0.5 - centres[:, None]) / support).abs()
    near, far = (1.5 * away - 2.5) * away * away + 1, ((-0.5 * away + 2.5) * away - 4) * away + 2
    weights = torch.where(away < 1, near, torch.where(away < 2, far, torch.zeros(())))
    return weights / weights.sum(dim=1, keepdim=True)
