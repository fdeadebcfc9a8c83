"""Full and read-only disks: one sentence, nothing half-written, and the same command goes on when there is room.

    python -m tests.robustness.places [--sizes 12]

A small disk in memory is mounted (for which one must be root, on Linux), and every command writes to it: with no room,
with too little at `--sizes` places of a run, and where nothing may be written. After each, room is made and the same
command must end with the files of one that had room from the beginning. Prints tried / clean / wrong; exits with 1 if
something is wrong.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest.mock import patch

import tagseg
from tagseg.data.synthetic import make_synthetic
from tagseg.errors import BadInput
from tagseg.pipeline import run_folder
from tests.conftest import TINY
from tests.robustness import tell
from tests.robustness.kill import differing

Command = Callable[[Path], object]  # writes into a folder


@contextmanager
def disk(place: Path, kilobytes: int) -> Iterator[Callable[[str], None]]:
    """A disk of that size at a folder; what it gives mounts it anew with other options."""
    place.mkdir(exist_ok=True)

    def mount(options: str) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], check=True)

    mount(f"size={kilobytes}k")
    try:
        yield lambda options: mount(f"remount,{options}")
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def commands(data: Path, run: Path) -> dict[str, Command]:
    """Everything that writes."""
    photos, net = data / "images", {"model": "timm:test_resnet", "weights": "random", "side": 64}
    return {
        "predict": lambda out: tagseg.predict(run, [photos], out, overlay=True, quiet=True),
        "refine": lambda out: tagseg.refine(photos, run / "masks", out, refine="superpixels", quiet=True),
        "evaluate": lambda out: tagseg.evaluate(run / "masks", data / "masks", out=out / "scores.json"),
        "explain": lambda out: tagseg.explain(images=[photos], out=out, quiet=True, **net),  # type: ignore[arg-type]
        "locate": lambda out: tagseg.locate(images=[photos], out=out, quiet=True, **net),  # type: ignore[arg-type]
        "decompose": lambda out: tagseg.decompose(images=[photos], out=out, quiet=True, **net),  # type: ignore[arg-type]
    }


def said(command: Command, out: Path) -> str:
    """The empty string if the command ended well; one sentence; or what is wrong, beginning with WRONG."""
    try:
        command(out)
    except BadInput as error:
        return str(error)
    except Exception:
        return "WRONG " + traceback.format_exc().splitlines()[-1]
    return ""


def left_behind(out: Path) -> list[str]:
    """Files that were begun and not finished."""
    return [p.name for p in out.rglob("*.partial")] if out.exists() else []


def try_all(data: Path, whole: Path, folder: Path, sizes: int) -> tuple[int, list[str]]:
    """How many were tried, and what is wrong."""
    tried, wrong = 0, list[str]()
    place = folder / "disk"

    def note(what: str, right: bool, words: str) -> None:
        nonlocal tried
        tried += 1
        if not right:
            wrong.append(f"{what}: {words}")

    for name, command in commands(data, whole).items():
        with disk(place, 8) as change:
            (place / "out").mkdir()
            (place / "filler").write_bytes(bytes(8192 - 4096))  # a page is left for folders
            with suppress(OSError):
                (place / "more").write_bytes(bytes(8192))
            words = said(command, place / "out")
            note(f"{name}, no room", "disk is full" in words, words or "ended well")
            note(f"{name}, left behind", not left_behind(place), str(left_behind(place)))
            change("size=100m")
            words = said(command, place / "out")
            note(f"{name}, after room was made", words == "", words)
        with disk(place, 100_000) as change:
            change("ro")
            words = said(command, place / "out")
            note(f"{name}, read-only", "cannot be written" in words, words or "ended well")

    def fit(out: Path) -> object:
        return tagseg.fit(data, out, recipe="cam", settings=TINY, quiet=True)

    needed = sum(p.stat().st_size for p in whole.rglob("*") if p.is_file()) // 1024
    for number in range(sizes):
        size = max(8, needed * (number + 1) // (sizes + 1))
        with disk(place, size) as change:
            with patch.object(run_folder, "_check_room"):  # as if others had filled the disk since
                words = said(fit, place / "run")
            note(f"fit with {size} kB", words == "" or "disk is full" in words, words)
            change("size=100m")
            words = said(fit, place / "run")
            other = [n for n in differing(place / "run", whole) if not n.endswith(".damaged")]
            note(f"fit after {size} kB", words == "" and not other, words or f"{other} differ")
    with disk(place, 100_000) as change:
        change("ro")
        words = said(fit, place / "run")
        note("fit, read-only", "cannot be written" in words, words or "ended well")
    with disk(place, 100_000) as change:
        shutil.copytree(whole, place / "run")
        change("ro")
        words = said(fit, place / "run")
        note("a finished fit, read-only", not words.startswith("WRONG"), words)
        words = said(
            lambda out: tagseg.predict(place / "run", [data / "images"], out, quiet=True), folder / "elsewhere"
        )
        note("predict with a run that is read-only", words == "", words)
    return tried, wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, default=12)
    sizes = parser.parse_args().sizes
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            with disk(folder / "disk", 8):
                pass
        except (OSError, subprocess.CalledProcessError):
            print("full disks: none tried, for no disk can be mounted here; be root, on Linux")
            sys.exit(0)
        data = make_synthetic(folder / "data", train=6, val=2, sides=(40, 61))
        tagseg.fit(data, folder / "whole", recipe="cam", settings=TINY, quiet=True)
        tried, wrong = try_all(data, folder / "whole", folder, sizes)
    tell("full and read-only disks", tried, wrong)


if __name__ == "__main__":
    main()
