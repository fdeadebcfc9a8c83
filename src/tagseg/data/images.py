"""Decoding photographs, masks and saliency maps of any common kind into plain arrays.

Pillow decodes: it knows EXIF rotation, palettes, CMYK, 16-bit greys and WebP, and refuses truncated files.
"""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from tagseg.errors import BadInput
from tagseg.files import write_aside

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp")
MAX_PIXELS = 178_956_970  # a fifth of a gigapixel; larger headers are refused before anything is decoded
Image.MAX_IMAGE_PIXELS = None  # replaced by the check in `_open`, whose message names the file


def read_image(path: Path) -> np.ndarray:
    """Reads a photograph as `(H, W, 3)` uint8 RGB, turned upright as its EXIF tag says.

    Grey is repeated, palettes are looked up, transparency is laid on white, CMYK is converted, 16-bit values
    are scaled by 1/257.

    Raises:
        BadInput: the file is missing, no image, truncated, or larger than `MAX_PIXELS`.
    """
    try:
        return decode_image(path.read_bytes(), path)
    except FileNotFoundError as error:
        raise BadInput(f"{path}: there is no such image; add the file or remove its entry.") from error


def decode_image(data: bytes, path: Path) -> np.ndarray:
    """Decodes a photograph from bytes already in memory, as `read_image` does from a file.

    `path` is for messages.
    """
    image = _open(data, path)
    try:
        # exif_transpose decodes the pixels as well
        return np.array(_to_rgb(ImageOps.exif_transpose(image), path))
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise BadInput(f"{path}: the image is damaged or truncated ({error}); replace or remove it.") from error


def image_size(path: Path) -> tuple[int, int]:
    """Returns `(H, W)` of a photograph as `read_image` would return it, from its header alone."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: this is not an image that can be read ({error}).") from error
    return (width, height) if turned else (height, width)


def _open(data: bytes, path: Path) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data))
    except (OSError, ValueError, SyntaxError) as error:
        raise BadInput(f"{path}: this is not an image that can be read; replace or remove it.") from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise BadInput(
            f"{path}: the header announces {width} x {height} pixels, more than the limit of "
            f"{MAX_PIXELS / 1e6:.0f} million (a decompression bomb?); scale the image down or remove it."
        )
    return image


def _to_rgb(image: Image.Image, path: Path) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I") or image.mode == "F":  # 16 or 32 bits a pixel, grey
        values = np.asarray(image, dtype=np.float64)
        if image.mode == "F" or values.min() < 0 or values.max() > 65535:
            raise BadInput(f"{path}: grey values beyond 16 bits have no known range; save it with 8 or 16 bits.")
        return Image.fromarray((values / 257).round().astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def read_grey(path: Path) -> np.ndarray:
    """Reads any image as `(H, W)` uint8 grey, for example a saliency map.

    Raises:
        BadInput: the file cannot be read.
    """
    return cv2.cvtColor(read_image(path), cv2.COLOR_RGB2GRAY)


def read_index_png(path: Path) -> np.ndarray:
    """Reads a mask as `(H, W)` uint8: the palette index (or grey value) of every pixel.

    Raises:
        BadInput: the file cannot be read, or holds colours where indices are expected.
    """
    try:
        image = _open(path.read_bytes(), path)
        if image.mode not in ("P", "L", "1", "I;16", "I"):
            raise BadInput(
                f"{path}: a mask holds one class index per pixel, this file has mode {image.mode}; "
                "save it as an 8-bit palette or grey PNG."
            )
        values = np.array(image)
    except (OSError, ValueError, SyntaxError) as error:
        raise BadInput(f"{path}: the mask cannot be read ({error}); replace or remove it.") from error
    return values.astype(np.uint8) if values.max(initial=0) <= 255 else values


def write_mask(path: Path, mask: np.ndarray) -> None:
    """Writes `(H, W)` class indices as an 8-bit palette PNG in the PASCAL VOC colours, whole or not at all."""
    image = Image.frombytes("P", mask.shape[::-1], mask.astype(np.uint8).tobytes())
    image.putpalette(voc_palette().tobytes())
    with write_aside(path) as aside:
        image.save(aside, format="PNG")


def write_grey(path: Path, values: np.ndarray) -> None:
    """Writes `(H, W)` uint8 as a grey PNG, whole or not at all."""
    with write_aside(path) as aside:
        Image.fromarray(values, mode="L").save(aside, format="PNG")


def voc_palette() -> np.ndarray:
    """Returns the 256 colours of PASCAL VOC, `(256, 3)` uint8.

    The bits of the index are dealt to red, green, blue.
    """
    index = np.arange(256)
    colours = np.zeros((256, 3), dtype=np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= (((index >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    return colours
