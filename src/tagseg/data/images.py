"""Decoding photographs, masks and saliency maps of any common kind into plain arrays.

Pillow decodes: it knows EXIF rotation, palettes, CMYK, 16-bit greys and WebP, and refuses truncated files. Only formats
that are meant are tried, and the size is known from the header before anything is decoded.
"""

from __future__ import annotations

import io
import os
import threading
import warnings
import zlib
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from PIL import Image

from tagseg.errors import BadInput, brief
from tagseg.files import write_aside

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".avif", ".heic", ".heif",
)  # fmt: skip
# what Pillow may try; AVIF needs Pillow 11.3 or newer, HEIF the plugin pillow-heif, which registers itself
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "TIFF", "BMP", "DIB", "GIF", "AVIF", "HEIF")
MAX_PIXELS = 178_956_970  # a fifth of a gigapixel; larger headers are refused before anything is decoded
DEPTHS = (8, 10, 12, 14, 16)  # bits that cameras and scanners fill of 16
ImageLike = str | os.PathLike[str] | bytes | np.ndarray | Image.Image

_ORIENTATION = 0x0112  # the tag of EXIF
_UPRIGHT = {  # its value: what turns the pixels upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ROWS = 256  # of a photograph of 16 bits that are scaled at a time
_opening = threading.Lock()


def read_image(path: Path) -> np.ndarray:
    """Reads a photograph as `(H, W, 3)` uint8 RGB, turned upright as its EXIF tag says.

    Grey is repeated, palettes are looked up, transparency is laid on white, CMYK is converted, and the first picture of
    an animation counts. Greys and colours of 16 bits are scaled by the number of bits that they fill: 8, 10, 12, 14 or
    16, the least that holds their largest value, for cameras write 12 bits into 16.

    Raises:
        BadInput: the file is missing, no image, truncated, or larger than `MAX_PIXELS`.
    """
    return decode_image(_content(path), path)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise BadInput(f"{path}: there is no such image; add the file or remove its entry.") from error
    except OSError as error:
        raise BadInput(f"{path}: this image cannot be read ({error.strerror}).") from error


def decode_image(data: bytes, path: Path | str) -> np.ndarray:
    """Decodes a photograph from bytes already in memory, as `read_image` does from a file.

    `path` is for messages.
    """
    image = _open(data, path)
    deep = _deep_colours(image, data, path)
    return _decoded(image, path) if deep is None else deep


def _deep_colours(image: Image.Image, data: bytes, path: Path | str) -> np.ndarray | None:
    """A photograph whose colours have 16 bits, of which Pillow would keep the upper 8, be they dark; None of others."""
    values = _sixteen(image, data)
    if values is None:
        return None
    turn = _UPRIGHT.get(_orientation(image))
    eight = _shallow(values[..., :3], path)[..., ::-1]
    if image.mode == "RGBA":
        eight = np.dstack([eight, (values[..., 3] // 256).astype(np.uint8)])
    upright = Image.fromarray(np.ascontiguousarray(eight))
    return _decoded(upright if turn is None else upright.transpose(turn), path)


def _sixteen(image: Image.Image, data: bytes) -> np.ndarray | None:
    """The values of colours of 16 bits, `(H, W, 3)` BGR or `(H, W, 4)`; None of other or damaged files."""
    if image.mode not in ("RGB", "RGBA") or ";16" not in _raw_mode(image):
        return None
    try:
        image.load()  # tells whether the file is whole; OpenCV would not
        values = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    except Exception:  # whatever a damaged file makes them stumble over; Pillow tells of it when it decodes
        return None
    if values is None or values.dtype != np.uint16 or values.shape != (*image.size[::-1], len(image.mode)):
        return None
    return values


def _bits_of(most: int) -> int:
    """The least number of bits, of those that cameras use, that hold a value."""
    return next(bits for bits in DEPTHS if most < 2**bits)


def to_photograph(image: ImageLike) -> np.ndarray:
    """Returns a photograph of any kind as the pixels that `read_image` gives of its file, `(H, W, 3)` uint8 RGB.

    Args:
        image: a path; the bytes of a file; an image of Pillow, whose EXIF tag counts; or an array `(H, W, 3)` RGB,
            `(H, W, 4)` RGBA or `(H, W)` grey, uint8, or RGB or grey of 16 bits.

    Raises:
        BadInput: it is none of these, or cannot be read.
    """
    if isinstance(image, np.ndarray):
        colour = image.ndim == 3 and image.shape[2] in (3, 4) and image.dtype == np.uint8
        grey = image.ndim == 2 and image.dtype in (np.uint8, np.uint16)
        deep = image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint16
        if not (colour or grey or deep) or not image.size:
            raise BadInput(
                f"the image has shape {image.shape} and type {image.dtype}; give (H, W, 3) uint8 or uint16 RGB, "
                "(H, W, 4) uint8 RGBA, or (H, W) uint8 or uint16 grey."
            )
        if deep:
            return _shallow(image, "the image")
        if colour and image.shape[2] == 3:
            return image
        return _decoded(Image.fromarray(np.ascontiguousarray(image)), "the image")
    if isinstance(image, Image.Image):
        if ";16" in _raw_mode(image) and getattr(image, "fp", None) is not None:  # opened, and not decoded yet
            image.fp.seek(0)  # type: ignore[attr-defined]
            return decode_image(image.fp.read(), "the image")  # type: ignore[attr-defined]
        return _decoded(image, "the image")
    if isinstance(image, bytes | bytearray | memoryview):
        return decode_image(bytes(image), "the image")
    if not isinstance(image, str | os.PathLike):
        raise BadInput(
            f"the image is a {type(image).__name__}; give a path, the bytes of a file, an image of Pillow, or an array "
            "(H, W, 3) uint8."
        )
    return read_image(Path(image))


def _decoded(image: Image.Image, path: Path | str) -> np.ndarray:
    try:
        rgb = _to_rgb(_upright(image), path)
    except BadInput:
        raise
    except Exception as error:  # whatever a damaged file makes Pillow stumble over
        raise BadInput(f"{path}: the image is damaged or truncated ({brief(error)}); replace or remove it.") from error
    return np.array(rgb)


def _orientation(image: Image.Image) -> int:
    """How the camera was held; upright if EXIF is damaged, which must not cost the photograph."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:
        return 1


def _upright(image: Image.Image) -> Image.Image:
    image.load()  # an EXIF tag may follow the pixels
    turn = _UPRIGHT.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def filled_bits(data: bytes) -> int:
    """Returns how many bits a photograph's values fill: 8 of most, and of one with 16 bits those that are used."""
    image = _open(data, "the image")
    values = np.asarray(image) if image.mode.startswith("I") else _sixteen(image, data)
    return 8 if values is None else _bits_of(values.max(initial=0))


def is_turned(data: bytes) -> bool:
    """Returns whether a photograph's pixels are turned or mirrored when it is read, as its EXIF tag says."""
    return _orientation(_open(data, "the image")) in _UPRIGHT


def image_size(path: Path, limit: int = MAX_PIXELS) -> tuple[int, int]:
    """Returns `(H, W)` of a photograph as `read_image` would return it, from its header.

    Raises:
        BadInput: it is no image, or its header announces more than `limit` pixels.
    """
    try:
        with open(path, "rb") as file:
            image = _open(file, path, limit)
            width, height = image.size
            return (width, height) if _orientation(image) in (5, 6, 7, 8) else (height, width)
    except OSError as error:
        raise BadInput(f"{path}: this image cannot be read ({error.strerror}).") from error


def _open(source: bytes | BinaryIO, path: Path | str, limit: int = MAX_PIXELS) -> Image.Image:
    try:
        with _opening, warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is ours
            image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=_formats())
    except Image.DecompressionBombError as error:
        raise BadInput(
            f"{path}: the header announces too many pixels (a decompression bomb? {brief(error)}); scale it down "
            "or remove it."
        ) from error
    except Exception as error:  # whatever a damaged header makes Pillow stumble over
        raise BadInput(
            f"{path}: this is not an image that can be read{_advice(source)}; replace or remove it."
        ) from error
    width, height = image.size
    if width * height > limit:
        raise BadInput(
            f"{path}: the header announces {width} x {height} pixels, more than the limit of "
            f"{limit / 1e6:.0f} million (a decompression bomb?); scale the image down or remove it."
        )
    return image


def _formats() -> list[str]:
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _advice(source: bytes | BinaryIO) -> str:
    if not isinstance(source, bytes):
        source.seek(0)
    data = source[:16] if isinstance(source, bytes) else source.read(16)
    if data[4:8] == b"ftyp" and data[8:12] in (b"heic", b"heix", b"mif1", b"msf1", b"heim", b"heis"):
        return " (HEIC: install pillow-heif and register it, or convert it to JPEG)"
    return " (AVIF: install Pillow 11.3 or newer)" if data[4:12] in (b"ftypavif", b"ftypavis") else ""


def _to_rgb(image: Image.Image, path: Path | str) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I") or image.mode == "F":  # 16 or 32 bits a pixel, grey
        return Image.fromarray(_eight_bits(image, path)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _eight_bits(image: Image.Image, path: Path | str) -> np.ndarray:
    """Greys of 16 bits as 8."""
    if image.mode == "F":
        raise BadInput(f"{path}: grey values with a point have no known range; save it with 8 or 16 bits.")
    return _shallow(np.asarray(image), path)


def _shallow(values: np.ndarray, path: Path | str) -> np.ndarray:
    """Values of 16 bits as 8, a few rows at a time, so that a large photograph takes little memory."""
    least, most = values.min(initial=0), values.max(initial=0)
    if least < 0 or most > 65535:
        raise BadInput(f"{path}: grey values beyond 16 bits have no known range; save it with 8 or 16 bits.")
    white = 2 ** _bits_of(most) - 1
    grey = np.empty(values.shape, dtype=np.uint8)
    for row in range(0, len(values), _ROWS):
        grey[row : row + _ROWS] = np.rint(values[row : row + _ROWS].astype(np.float32) * (255 / white))
    return grey


def read_grey(path: Path) -> np.ndarray:
    """Reads any image as `(H, W)` uint8 grey, for example a saliency map.

    Raises:
        BadInput: the file cannot be read.
    """
    return cv2.cvtColor(read_image(path), cv2.COLOR_RGB2GRAY)


def read_index_png(path: Path) -> np.ndarray:
    """Reads a mask as `(H, W)` uint8 (uint16 or int32 where it has larger numbers): one number per pixel.

    This is the palette index or the grey value. Of colours it is the value that all channels share, or the index of
    PASCAL VOC's colour.

    Raises:
        BadInput: the file cannot be read, or holds colours that stand for no number.
    """
    image = _open(_content(path), path)
    raw = _raw_mode(image)  # decoding forgets it
    try:
        if image.mode in ("RGBA", "LA"):
            image = image.convert("RGBA" if image.mode == "RGBA" else "LA")
            if image.getextrema()[-1] == (255, 255):
                image = image.convert(image.mode[:-1])
        values = np.array(image)
        if raw in ("L;4", "L;2"):  # Pillow spreads such greys over 0 to 255
            values = values // (17 if raw == "L;4" else 85)
    except Exception as error:  # whatever a damaged file makes Pillow stumble over
        raise BadInput(f"{path}: the mask cannot be read ({brief(error)}); replace or remove it.") from error
    if image.mode == "RGB":
        return _numbers_of(values, path)
    if image.mode not in ("P", "L", "1", "I;16", "I"):
        raise BadInput(
            f"{path}: this must hold one number per pixel, for a class or a segment, and has mode {image.mode}; "
            "save it as a palette or grey PNG."
        )
    return values.astype(np.uint8) if values.max(initial=0) <= 255 else values


def _numbers_of(colours: np.ndarray, path: Path) -> np.ndarray:
    """The numbers that colours `(H, W, 3)` stand for."""
    codes = colours.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], dtype=np.int32)
    found, places = np.unique(codes, return_inverse=True)
    red, green, blue = found >> 16, found >> 8 & 255, found & 255
    if (red == green).all() and (green == blue).all():
        return colours[..., 0]
    known = {code: number for number, code in enumerate(voc_palette().astype(np.int32) @ [1 << 16, 1 << 8, 1])}
    strange = next((n for n, code in enumerate(found) if code not in known), None)
    if strange is not None:
        raise BadInput(
            f"{path}: this must hold one number per pixel, and has colours, such as ({red[strange]}, {green[strange]}, "
            f"{blue[strange]}), which are not PASCAL VOC's; save it as a palette or grey PNG."
        )
    return np.array([known[code] for code in found], dtype=np.uint8)[places.reshape(codes.shape)]


def _raw_mode(image: Image.Image) -> str:
    """How Pillow names the bits of a pixel in the file, for example `L;4` or `RGB;16B`; empty if it does not tell."""
    tiles = getattr(image, "tile", None)
    found = tiles[0][3] if tiles else ""
    return str(found[0] if isinstance(found, tuple) and found else found)


def numbers_in(mask: np.ndarray) -> list[int]:
    """Returns the numbers in a mask, ascending. Counting bytes is several times faster than sorting them."""
    if mask.dtype == np.uint8:
        return np.flatnonzero(cv2.calcHist([mask], [0], None, [256], [0, 256])).tolist()
    return np.unique(mask).tolist()


def is_bright(path: Path) -> bool:
    """Returns whether the palette of a mask shows the number 0 brighter than 1, as programs order two colours anew."""
    palette = np.array(_open(_content(path), path).getpalette("RGB") or [], dtype=np.int64).reshape(-1, 3)
    return len(palette) > 1 and bool(palette[0].sum() > palette[1].sum())


def is_whole_png(path: Path) -> bool:
    """Returns whether a file is a PNG of which every checksum is right, so that somebody meant it to be as it is."""
    content = path.read_bytes()
    if not content.startswith(b"\x89PNG\r\n\x1a\n"):
        return False
    place, kind = 8, b""
    while place + 12 <= len(content) and kind != b"IEND":
        length = int.from_bytes(content[place : place + 4], "big")
        body, kind = content[place + 4 : place + 8 + length], content[place + 4 : place + 8]
        if zlib.crc32(body).to_bytes(4, "big") != content[place + 8 + length : place + 12 + length]:
            return False
        place += 12 + length
    return kind == b"IEND" and place == len(content)


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
