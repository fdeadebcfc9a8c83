"""Mutated images: whatever happened to a file, it is read, or refused in one sentence.

    python -m tests.robustness.images [--count 10000] [--seed 0]

Small pictures of every format and mode are cut, overwritten and spliced at random places. Prints how many were tried
and read; anything but pixels or `BadInput` is an error.
"""

import argparse
import io
import warnings

import numpy as np
from PIL import Image

from tagseg.data.images import decode_image
from tagseg.errors import BadInput

KINDS = (("JPEG", "RGB"), ("JPEG", "CMYK"), ("PNG", "RGB"), ("PNG", "P"), ("PNG", "I;16"), ("PNG", "RGBA"),
         ("TIFF", "RGB"), ("TIFF", "I;16"), ("TIFF", "F"), ("WEBP", "RGB"), ("BMP", "RGB"), ("GIF", "P"))  # fmt: skip


def originals() -> list[bytes]:
    rng = np.random.default_rng(0)
    found = []
    for kind, mode in KINDS:
        if mode == "I;16":
            picture = Image.fromarray(rng.integers(0, 65536, (24, 31), dtype=np.uint16))
        elif mode == "F":
            picture = Image.fromarray(rng.random((24, 31), dtype=np.float32))
        else:
            picture = Image.fromarray(rng.integers(0, 256, (24, 31, 3), dtype=np.uint8)).convert(mode)
        exif = Image.Exif()
        exif[0x0112], exif[0x010E] = 6, "a photograph"
        buffer = io.BytesIO()
        picture.save(buffer, format=kind, **({"exif": exif} if kind in ("JPEG", "PNG", "WEBP", "TIFF") else {}))
        found.append(buffer.getvalue())
    return found


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(content)
    for _ in range(int(rng.integers(1, 6))):
        place = int(rng.integers(0, max(1, len(changed))))
        match int(rng.integers(5)):
            case 0:
                del changed[place:]
            case 1:
                changed[place : place + 1] = bytes([int(rng.integers(256))])
            case 2:
                changed[place:place] = rng.bytes(int(rng.integers(1, 20)))
            case 3:
                del changed[place : place + int(rng.integers(1, 20))]
            case _:  # large numbers where sizes and offsets are
                changed[place : place + 4] = int(rng.choice([0, 2**31 - 1, 2**32 - 1, 2**16])).to_bytes(4, "big")
    return bytes(changed)


def mutated_images(count: int, seed: int) -> tuple[int, int]:
    """How many mutated images were tried, and how many of them could still be read."""
    rng, kinds, read = np.random.default_rng(seed), originals(), 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow tells of damaged metadata
        for number in range(count):
            content = mutated(kinds[number % len(kinds)], rng)
            try:
                pixels = decode_image(content, "image")
            except BadInput:
                continue
            else:
                assert pixels.ndim == 3
                assert pixels.dtype == np.uint8
                read += 1
    return count, read


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    tried, read = mutated_images(arguments.count, arguments.seed)
    print(f"images: {tried} tried, {read} read, {tried - read} refused in one sentence, 0 wrong")


if __name__ == "__main__":
    main()
