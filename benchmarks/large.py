"""The memory and time that a large photograph takes: a process each, the network of a run, with and without a CRF.

    python benchmarks/large.py RUN PHOTO [--megapixels 30]

The photograph is enlarged to that many pixels first. "Before" is the peak of a process that has opened the network and
the photograph, and nothing else.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import machine
from PIL import Image

import tagseg
from tagseg.data.images import read_image


def one(run: Path, photo: Path, how: str) -> None:
    model, pixels = tagseg.load(run), read_image(photo)
    begun = time.perf_counter()
    if how != "before":
        model.predict(pixels, crf=how)
    seconds = time.perf_counter() - begun
    print(f"| {how} | {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:.0f} | {seconds:.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("photo", type=Path)
    parser.add_argument("--megapixels", type=float, default=30)
    parser.add_argument("--how", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.how:
        one(arguments.run, arguments.photo, arguments.how)
        return
    with tempfile.TemporaryDirectory() as folder:
        large = Path(folder) / "large.png"
        with Image.open(arguments.photo) as image:
            factor = (arguments.megapixels * 1e6 / (image.width * image.height)) ** 0.5
            image.convert("RGB").resize((round(image.width * factor), round(image.height * factor))).save(large)
        print("| crf | peak memory, MB | seconds |\n|---|---|---|", flush=True)
        for how in ("before", "none", "deeplab"):
            subprocess.run([sys.executable, __file__, str(arguments.run), str(large), "--how", how], check=True)
    print(machine())


if __name__ == "__main__":
    main()
