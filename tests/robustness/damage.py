"""Damages every file of a finished run in every way, and runs the same command again.

    python -m tests.robustness.damage [--ways flip cut empty text null gone] [--every N]

A small run is made, and for each of its files and each way a copy of it is damaged there. Then `fit` must end well with
the files of the run that was left alone, or in one sentence; nothing else. Prints tried / repaired / told / wrong, and
every wrong one; exits with 1 if there is one.
"""

import argparse
import random
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

import tagseg
from tagseg.data.synthetic import make_synthetic
from tagseg.errors import BadInput
from tests.conftest import TINY
from tests.robustness.kill import differing


def flip(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


WAYS: dict[str, Callable[[bytes, random.Random], bytes | None]] = {
    "flip": flip,
    "cut": lambda content, rng: content[: rng.randrange(len(content))],
    "empty": lambda content, rng: b"",
    "text": lambda content, rng: b"something else\n",
    "null": lambda content, rng: b"null\n",
    "gone": lambda content, rng: None,
}


def outcome(data: Path, run: Path, whole: Path) -> str:
    """What the same command makes of a run that was damaged."""
    try:
        tagseg.fit(data, run, recipe="cam", settings=TINY, quiet=True)
    except BadInput as error:
        return "told" if len(str(error).splitlines()) == 1 else f"wrong: {error}"
    except Exception:
        return f"wrong: {traceback.format_exc().splitlines()[-1]}"
    aside = {p.relative_to(run).as_posix() for p in run.rglob("*.damaged")}
    other = [name for name in differing(run, whole) if name not in aside]
    return f"wrong: {other[0]} differs" if other else "repaired"


def damage_all(data: Path, whole: Path, folder: Path, ways: list[str], every: int, seed: int) -> dict[str, list[str]]:
    """The outcomes of all files in all ways: outcome to what was damaged."""
    rng, found = random.Random(seed), dict[str, list[str]]()
    files = [p for p in sorted(whole.rglob("*")) if p.is_file() and p.name != ".lock" and p.stat().st_size]
    for path in files[::every]:
        for way in ways:
            run = folder / "run"
            shutil.rmtree(run, ignore_errors=True)
            shutil.copytree(whole, run)
            target = run / path.relative_to(whole)
            content = WAYS[way](path.read_bytes(), rng)
            if content is None:
                target.unlink()
            else:
                target.write_bytes(content)
            found.setdefault(outcome(data, run, whole), []).append(f"{path.relative_to(whole)} ({way})")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_synthetic(folder / "data", train=6, val=2, sides=(40, 61))
        tagseg.fit(folder / "data", folder / "whole", recipe="cam", settings=TINY, quiet=True)
        found = damage_all(folder / "data", folder / "whole", folder, a.ways, a.every, a.seed)
    wrong = {what: where for what, where in found.items() if what.startswith("wrong")}
    count = {what: len(where) for what, where in found.items()}
    tried, bad = sum(count.values()), sum(map(len, wrong.values()))
    print(
        f"damaged files: {tried} tried, {count.get('repaired', 0)} repaired, {count.get('told', 0)} told, {bad} wrong"
    )
    for what, where in wrong.items():
        print(f"  {what}: {', '.join(where)}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
