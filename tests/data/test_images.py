import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from tagseg.data.images import (
    decode_image,
    image_size,
    is_whole_png,
    read_image,
    read_index_png,
    to_photograph,
    voc_palette,
    write_mask,
)
from tagseg.errors import BadInput
from tagseg.labels import IGNORE
from tests.robustness.images import mutated_images

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
    with pytest.raises(BadInput, match="one number per pixel"):
        read_index_png(tmp_path / "mask.png")


def test_memory_and_files_are_read_alike(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6
    pictures = {
        "turned.jpg": (Image.fromarray(COLOURS.repeat(8, 0).repeat(8, 1)), {"exif": exif}),
        "clear.png": (Image.fromarray(np.dstack([COLOURS, COLOURS[..., 0]])), {}),
        "deep.png": (Image.fromarray(np.arange(0, 65536, 1000, dtype=np.uint16).reshape(6, 11)), {}),
        "palette.gif": (Image.fromarray(COLOURS).quantize(8), {}),
    }
    for name, (picture, options) in pictures.items():
        path = tmp_path / name
        picture.save(path, **options)
        expected = read_image(path)
        np.testing.assert_array_equal(to_photograph(path.read_bytes()), expected)
        np.testing.assert_array_equal(to_photograph(str(path)), expected)
        with Image.open(path) as opened:
            np.testing.assert_array_equal(to_photograph(opened), expected)
    deep = np.arange(0, 65536, 1000, dtype=np.uint16).reshape(6, 11)
    np.testing.assert_array_equal(to_photograph(deep), read_image(tmp_path / "deep.png"))
    four = np.dstack([COLOURS, COLOURS[..., 0]])
    np.testing.assert_array_equal(to_photograph(four), read_image(tmp_path / "clear.png"))
    np.testing.assert_array_equal(to_photograph(COLOURS[..., 0]), COLOURS[..., :1].repeat(3, axis=2))


@pytest.mark.parametrize(("most", "white"), [(200, 255), (900, 1023), (4095, 4095), (9000, 16383), (40000, 65535)])
def test_sixteen_bits_that_use_fewer(tmp_path: Path, most: int, white: int):
    values = np.linspace(0, most, 20).astype(np.uint16).reshape(4, 5)
    for kind in (np.uint16, np.int32):
        path = tmp_path / "deep.tif"
        Image.fromarray(values.astype(kind)).save(path)
        np.testing.assert_allclose(read_image(path)[..., 0], values * (255 / white), atol=0.501)


def test_damaged_exif_costs_nothing(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x9286] = "comment"
    Image.fromarray(COLOURS.repeat(8, 0).repeat(8, 1)).save(tmp_path / "a.jpg", exif=exif)
    content = bytearray((tmp_path / "a.jpg").read_bytes())
    start = content.index(b"Exif\0\0") + 6
    # every byte of the block after the orientation is damaged in turn
    right, seen = read_image(tmp_path / "a.jpg"), set()
    for place in range(start, content.index(b"comment")):
        mutated = bytes(content[:place]) + bytes([content[place] ^ 0xFF]) + bytes(content[place + 1 :])
        seen.add(decode_image(mutated, "a.jpg").shape)
    assert seen <= {right.shape, (right.shape[1], right.shape[0], 3)}


def test_formats_that_are_not_meant_are_not_tried(tmp_path: Path):
    path = tmp_path / "a.png"
    for kind in ("EPS", "PPM", "TGA", "PCX", "ICO"):
        Image.fromarray(COLOURS.repeat(8, 0).repeat(8, 1)).save(path, format=kind)
        with pytest.raises(BadInput, match="not an image"):
            read_image(path)
    path.write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    with pytest.raises(BadInput, match=r"pillow-heif|truncated"):
        read_image(path)


def test_a_size_limit_holds_before_anything_is_decoded(tmp_path: Path):
    path = tmp_path / "wide.png"
    Image.new("L", (60, 50)).save(path)
    assert image_size(path) == (50, 60)
    with pytest.raises(BadInput, match="60 x 50 pixels"):
        image_size(path, limit=2999)


def test_mutated_images_are_read_or_refused():
    """A few hundred here; `python -m tests.robustness.images` tries as many as one likes."""
    tried, read = mutated_images(300, seed=0)
    assert tried == 300
    assert 0 < read < tried


def test_every_flipped_bit_of_a_mask_is_seen(tmp_path: Path):
    path = tmp_path / "mask.png"
    write_mask(path, np.array([[0, 1, 2]], dtype=np.uint8))
    content = path.read_bytes()
    assert is_whole_png(path)
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert not is_whole_png(path)
    for other in (content[:-1], content + b"a", b"", content[:8]):
        path.write_bytes(other)
        assert not is_whole_png(path)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [3, 4])
def test_colours_of_sixteen_bits_that_use_fewer(tmp_path: Path, suffix: str, channels: int):
    """Cameras write 12 bits into 16: the upper half alone is nearly black."""
    values = np.random.default_rng(0).integers(0, 4096, (20, 30, channels), dtype=np.uint16)
    if channels == 4:
        values[..., 3] = 65535
    cv2.imwrite(str(tmp_path / f"a{suffix}"), values)
    expected = np.rint(values[..., 2::-1] * np.float32(255 / 4095)).astype(np.uint8)
    assert (read_image(tmp_path / f"a{suffix}") == expected).all()
    assert (to_photograph((tmp_path / f"a{suffix}").read_bytes()) == expected).all()
    assert (to_photograph(Image.open(tmp_path / f"a{suffix}")) == expected).all()
    assert (to_photograph(np.ascontiguousarray(values[..., 2::-1])) == expected).all()


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_damaged_colours_of_sixteen_bits_are_told(suffix: str):
    values = np.random.default_rng(0).integers(0, 4096, (40, 50, 3), dtype=np.uint16)
    content = cv2.imencode(suffix, values)[1].tobytes()
    for cut in (len(content) // 3, len(content) // 2, len(content) - 400):
        with pytest.raises(BadInput):
            decode_image(content[:cut], "image")
