"""Everything in a photograph cut out by SAM, whose encoder and decoder lie in ONNX files.

Kirillov et al., "Segment Anything", ICCV 2023, appendix B (the automatic generation of masks): a grid of points, three
masks for each of them, those kept that the network believes in and that hardly depend on the threshold, and of masks of
the same box the most believed one. SAM has seen masks; what is made with these segments is not from tags alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tagseg.errors import BadInput, brief
from tagseg.run_lengths import encode_runs

MEAN, DEVIATION = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # of ImageNet, in values of 0 to 255
BELIEVED, STABLE, SAME_BOX = 0.88, 0.95, 0.7  # predicted IoU, stability, IoU of boxes, as published
_PIXELS = 1 << 26  # of all masks that the decoder makes at a time: 256 MB

Decode = Callable[[np.ndarray, tuple[int, int]], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Segment:
    """One segment of a photograph.

    runs: COCO's run lengths.
    area: pixels.
    predicted_iou: how well the network believes it to be cut.
    stability: IoU of what lies above the threshold and one higher, and what lies above one lower.
    """

    runs: dict[str, Any]
    area: int
    predicted_iou: float
    stability: float


class Sam:
    """SAM in two ONNX files, as `torch.onnx.export` writes its image encoder and its own exporter the decoder.

    The encoder takes `(1, 3, S, S)` float32, normalised, the longer side S, zeros right and below; the decoder what
    the published exporter names `image_embeddings`, `point_coords`, `point_labels`, `mask_input`, `has_mask_input` and
    `orig_im_size`.
    """

    def __init__(self, encoder: Path, decoder: Path) -> None:
        """Opens both files.

        Raises:
            BadInput: onnxruntime is missing, or a file is not what it should be.
        """
        self._encoder, self._decoder = _open(encoder, "encoder"), _open(decoder, "decoder")
        (self._image, *others) = self._encoder.get_inputs()
        shape = self._image.shape
        if others or len(shape) != 4 or shape[1] != 3:
            raise BadInput(f"{encoder}: this encoder takes {shape}; export SAM's image encoder, (1, 3, 1024, 1024).")
        self._side = shape[2] if isinstance(shape[2], int) else 1024
        inputs = {i.name: i.shape for i in self._decoder.get_inputs()}
        for name in (
            "image_embeddings",
            "point_coords",
            "point_labels",
            "mask_input",
            "has_mask_input",
            "orig_im_size",
        ):
            if name not in inputs:
                raise BadInput(f"{decoder}: this decoder has no input {name}; export it as segment-anything does.")
        self._batched = not isinstance(inputs["point_coords"][0], int)
        self._low = tuple(n if isinstance(n, int) else self._side // 4 for n in inputs["mask_input"][2:])

    def segments(self, image: np.ndarray, points: int = 32) -> list[Segment]:
        """Returns the segments of a photograph, the most believed one first.

        Args:
            image: `(H, W, 3)` uint8.
            points: of the grid, per side; as many runs of the decoder as its square, unless it takes many at a time.
        """
        height, width = image.shape[:2]
        longest = max(height, width)
        small = (int(width * self._side / longest + 0.5), int(height * self._side / longest + 0.5))
        resized = np.asarray(Image.fromarray(image).resize(small, Image.Resampling.BILINEAR), dtype=np.float32)
        pixels = np.zeros((1, 3, self._side, self._side), dtype=np.float32)
        normal = (resized - np.asarray(MEAN, dtype=np.float32)) / np.asarray(DEVIATION, dtype=np.float32)
        pixels[0, :, : small[1], : small[0]] = normal.transpose(2, 0, 1)
        (embeddings, *_) = self._encoder.run(None, {self._image.name: pixels})
        scale = np.asarray([small[0] / width, small[1] / height])

        def decode(at: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
            count = len(at)
            clicks = np.concatenate([(at * scale)[:, None], np.zeros((count, 1, 2))], axis=1)  # and one that is none
            masks, believed, *_ = self._decoder.run(
                None,
                {
                    "image_embeddings": embeddings,
                    "point_coords": clicks.astype(np.float32),
                    "point_labels": np.tile(np.asarray([1, -1], dtype=np.float32), (count, 1)),
                    "mask_input": np.zeros((1, 1, *self._low), dtype=np.float32),
                    "has_mask_input": np.zeros(1, dtype=np.float32),
                    "orig_im_size": np.asarray(size, dtype=np.float32),
                },
            )
            # of four the first one answers many clicks at once, and is not meant for a single one
            return (masks[:, 1:], believed[:, 1:]) if masks.shape[1] == 4 else (masks, believed)

        return segments_of(decode, (height, width), points, self._batched)


def segments_of(decode: Decode, size: tuple[int, int], points: int = 32, batched: bool = True) -> list[Segment]:
    """Returns what a network cuts out at the points of a grid, chosen as published, the most believed one first.

    Args:
        decode: points `(n, 2)` as x, y in pixels, and the size -> logits `(n, m, H, W)` and predicted IoU `(n, m)`.
        size: `(H, W)` of the photograph.
        points: of the grid, per side.
        batched: whether `decode` takes more than one point.
    """
    import torch
    from torchvision.ops import nms

    height, width = size
    steps = np.linspace(0.5 / points, 1 - 0.5 / points, points)
    grid = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2) * (width, height)
    batch = min(64, max(1, _PIXELS // (4 * height * width))) if batched else 1
    found: list[Segment] = []
    boxes: list[list[int]] = []
    for start in range(0, len(grid), batch):
        logits, believed = decode(grid[start : start + batch], size)
        for mask, belief in zip(logits.reshape(-1, height, width), believed.ravel(), strict=True):
            if belief <= BELIEVED:
                continue
            outside = np.count_nonzero(mask > -1)
            stability = np.count_nonzero(mask > 1) / outside if outside else 0.0
            if stability < STABLE:
                continue
            inside = mask > 0
            rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
            boxes.append([int(n) for n in (columns[0], rows[0], columns[-1], rows[-1])])
            found.append(Segment(encode_runs(inside), int(inside.sum()), float(belief), stability))
    if not found:
        return []
    kept = nms(torch.tensor(boxes, dtype=torch.float32), torch.tensor([s.predicted_iou for s in found]), SAME_BOX)
    return [found[number] for number in kept.tolist()]


def _open(path: Path, part: str) -> Any:
    if not path.is_file():
        raise BadInput(f"{path}: there is no such file; give SAM's {part} as .onnx.")
    try:
        import onnxruntime
    except ImportError as error:
        raise BadInput("SAM needs onnxruntime; install it with: pip install 'tagseg[onnx]'.") from error
    try:
        return onnxruntime.InferenceSession(str(path), providers=onnxruntime.get_available_providers())
    except Exception as error:  # onnxruntime has no common one
        raise BadInput(f"{path}: this {part} cannot be read ({brief(error)}).") from error
