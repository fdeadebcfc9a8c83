"""What looking at every file costs: `check` of this version and of another, side by side, and the floor.

    python benchmarks/check.py PHOTOGRAPHS --against SRC [--count 5000]

PHOTOGRAPHS is a folder of photographs, which are written `--count` times over into a data set with masks (copies
differ in one pixel). SRC is the `src` folder of the other version. Both run by turns, each
in a process of its own, three times; the floor is a bare loop of Pillow over the same files in as many threads.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from common import machine
from PIL import Image

import tagseg
from tagseg.cores import cpu_count
from tagseg.data.images import read_image, write_mask
from tagseg.data.walking import find_images

CODE = """
import sys, time
from tagseg.commands.check import check
begun = time.perf_counter()
result = check(sys.argv[1], quiet=True)
assert not result.problems, result.problems[:3]
print(time.perf_counter() - begun)
"""


def make(root: Path, photographs: Path, count: int) -> None:
    """A data set of so many photographs with masks."""
    files = list(find_images(photographs).photographs.values())
    (root / "images").mkdir(parents=True)
    for number in range(count):
        pixels = read_image(files[number % len(files)]).copy()
        pixels[0, 0] = number % 256, number // 256, 0
        Image.fromarray(pixels).save(root / "images" / f"{number}.jpg", quality=90)
        mask = np.zeros(pixels.shape[:2], dtype=np.uint8)
        mask[8 : 8 + pixels.shape[0] // 2, 8 : 8 + pixels.shape[1] // 2] = 1 + number % 2
        write_mask(root / "masks" / f"{number}.png", mask)
    rows = (f"{number}.jpg,{'odd' if number % 2 else 'even'}" for number in range(count))
    (root / "labels.csv").write_text("image,label\n" + "\n".join(rows) + "\n", encoding="utf-8")


def seconds(source: Path, root: Path) -> float:
    """What one look takes with the package in a source folder."""
    environment = os.environ | {"PYTHONPATH": str(source)}
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(root)], env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    return float(done.stdout)


def floor(root: Path) -> float:
    """What reading and decoding the same files takes at least."""

    def load(path: Path) -> None:
        with Image.open(path) as image:
            image.load()

    begun = time.perf_counter()
    with ThreadPoolExecutor(cpu_count()) as pool:
        list(pool.map(load, sorted(root.rglob("*.jpg")) + sorted(root.rglob("*.png"))))
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photographs", type=Path)
    parser.add_argument("--against", type=Path, required=True)
    parser.add_argument("--count", type=int, default=5000)
    a = parser.parse_args()
    here = Path(tagseg.__file__).parents[1]
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "data"
        make(root, a.photographs, a.count)
        floor(root)  # the disk's own memory is warm for all
        rows = [(seconds(here, root), seconds(a.against, root), floor(root)) for _ in range(3)]
    ours, other, least = np.median(np.array(rows), axis=0)
    print(f"machine: {machine()}; {a.count} photographs with masks, medians of {len(rows)} rounds")
    print(f"this version {ours:.1f} s, the other {other:.1f} s (ratio {ours / other:.2f}), floor {least:.1f} s")


if __name__ == "__main__":
    main()
