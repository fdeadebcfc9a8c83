"""Kills a run at random moments until it is done, and again from the beginning, and compares what it ends with.

    python -m tests.robustness.kill DATA --out FOLDER --kills 40 [--set KEY=VALUE ...]

Every run is started, killed (SIGKILL) after a random time, and started again by the same command, until it ends by
itself; then the next one begins. In the end every run must have the files of one that was left alone: masks, maps,
weights and numbers, byte by byte. Prints how many kills were tried, and in which stages; exits with 1 if a file
differs.
"""

import argparse
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from tagseg.data.synthetic import make_synthetic

SUFFIXES = (".png", ".safetensors", ".npy")
NAMES = ("metrics.json", "model.json", "classifier.json")


def command(data: Path, run: Path, recipe: str, settings: list[str]) -> list[str]:
    given = [word for pair in settings for word in ("--set", pair)]
    return [sys.executable, "-m", "tagseg.cli", "fit", str(data), "--out", str(run), "--recipe", recipe, *given]


def stage_of(run: Path) -> str:
    """The stage that was begun and not finished, or where the run was else."""
    begun = [p.parent for p in run.glob("*/stage.json") if '"finished": false' in p.read_text(encoding="utf-8")]
    return begun[0].name if begun else "between stages"


def differing(run: Path, whole: Path) -> list[str]:
    """The files of an undisturbed run that another lacks, or has otherwise; and those that it has beyond them."""
    kept = [p for p in whole.rglob("*") if p.suffix in SUFFIXES or p.name in NAMES]
    found = [p.relative_to(whole).as_posix() for p in kept]
    wrong = [n for n in found if not (run / n).exists() or (run / n).read_bytes() != (whole / n).read_bytes()]
    beyond = [
        p.relative_to(run).as_posix()
        for p in run.rglob("*")
        if p.suffix in (*SUFFIXES, ".ckpt", ".partial", ".damaged")
    ]
    return wrong + sorted(set(beyond) - set(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a small synthetic set is drawn if it is not there")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--recipe", default="cam")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    a = parser.parse_args()
    if not a.data.exists():
        make_synthetic(a.data, train=10, val=4, sides=(40, 61))
    draw, killed, wrong = random.Random(a.seed), Counter[str](), 0
    whole = a.out / "undisturbed"
    for _ in range(2):  # the first one compiles
        shutil.rmtree(whole, ignore_errors=True)
        begun = time.perf_counter()
        subprocess.run(command(a.data, whole, a.recipe, a.set), check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - begun
        print(f"undisturbed: {seconds:.0f} s", flush=True)
    runs = 0
    while killed.total() < a.kills:
        run = a.out / f"run-{runs}"
        shutil.rmtree(run, ignore_errors=True)
        runs += 1
        while True:
            process = subprocess.Popen(command(a.data, run, a.recipe, a.set), stdout=subprocess.DEVNULL)
            try:
                process.wait(draw.uniform(0, seconds) if killed.total() < a.kills else None)
                break
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                killed[stage_of(run) if run.exists() else "before anything"] += 1
        bad = [f"exit code {process.returncode}"] if process.returncode else differing(run, whole)
        wrong += len(bad)
        print(f"{run.name}: {killed.total()} kills so far, {len(bad)} files differ {bad[:5]}", flush=True)
        shutil.rmtree(run)
    print(f"tried {killed.total()}, in {dict(killed)}; {runs} runs, {wrong} files differ")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
