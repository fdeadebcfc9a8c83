import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tagseg.data.images import image_size, read_image, read_index_png, voc_palette, write_mask
from tagseg.errors import BadInput
from tagseg.labels import IGNORE

COLOURS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp", "webp"])
def test_lossless_files_come_back_as_they_were(tmp_path: Path, suffix: str):
    path = tmp_path / f"photo.{suffix}"
    Image.fromarray(COLOURS).save(path, **({"lossless": True} if suffix == "webp" else {}))
    np.testing.assert_array_equal(read_image(path), COLOURS)
    assert image_size(path) == (5, 7)


def test_grey_is_repeated(tmp_path: Path):
    Image.fromarray(COLOURS[..., 0]).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png"), np.repeat(COLOURS[..., :1], 3, axis=2))


def test_sixteen_bits_are_scaled(tmp_path: Path):
    Image.fromarray(np.array([[0, 257, 65535]], dtype=np.uint16)).save(tmp_path / "deep.png")
    assert read_image(tmp_path / "deep.png")[0, :, 0].tolist() == [0, 1, 255]


def test_transparent_is_white(tmp_path: Path):
    Image.fromarray(np.array([[[10, 20, 30, 255], [10, 20, 30, 0]]], dtype=np.uint8)).save(tmp_path / "clear.png")
    assert read_image(tmp_path / "clear.png").tolist() == [[[10, 20, 30], [255, 255, 255]]]


def test_palette_is_looked_up(tmp_path: Path):
    write_mask(tmp_path / "palette.png", np.array([[0, 1, 2]], dtype=np.uint8))
    assert read_image(tmp_path / "palette.png").tolist() == [[[0, 0, 0], [128, 0, 0], [0, 128, 0]]]


def test_cmyk_is_converted(tmp_path: Path):
    Image.fromarray(np.full((8, 8, 3), (250, 10, 10), np.uint8)).convert("CMYK").save(
        tmp_path / "print.jpg", quality=95
    )
    red, green, blue = read_image(tmp_path / "print.jpg").mean(axis=(0, 1))
    assert red > 200
    assert max(green, blue) < 60


def test_exif_turns_the_photograph_upright(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held to the left
    Image.fromarray(COLOURS).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "turned.png"), np.rot90(COLOURS, -1))
    assert image_size(tmp_path / "turned.png") == (7, 5)


def _bomb() -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def _truncated() -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, format="JPEG")
    return buffer.getvalue()[:-900]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"not a picture", "not an image"),
        (b"", "not an image"),
        (_truncated(), "truncated"),
        (_bomb(), "decompression bomb"),
        (None, "no such image"),
    ],
    ids=["text", "empty", "truncated", "bomb", "missing"],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, content: bytes | None, words: str):
    path = tmp_path / "bad.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadInput, match=words) as caught:
        read_image(path)
    assert str(path) in str(caught.value)


def test_masks_come_back_with_the_palette_of_voc(tmp_path: Path):
    mask = np.array([[0, 1, 20], [254, IGNORE, 3]], dtype=np.uint8)
    write_mask(tmp_path / "mask.png", mask)
    np.testing.assert_array_equal(read_index_png(tmp_path / "mask.png"), mask)
    with Image.open(tmp_path / "mask.png") as image:
        assert image.mode == "P"
        assert image.getpalette()[:6] == [0, 0, 0, 128, 0, 0]
    assert voc_palette()[IGNORE].tolist() == [224, 224, 192]


def test_a_mask_in_colours_is_refused(tmp_path: Path):
    Image.fromarray(COLOURS).save(tmp_path / "mask.png")
    with pytest.raises(BadInput, match="one class index per pixel"):
        read_index_png(tmp_path / "mask.png")
