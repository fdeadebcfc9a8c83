"""Peak memory of the whole job over 500 and over 5,000 synthetic photographs.

python benchmarks/memory.py --out FOLDER
"""

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

SETTINGS = {
    "train.epochs": 1,
    "segment.epochs": 1,
    "train.side": 65,
    "segment.side": 65,
    "mine.side": 97,
    "mine.scales": [1.0],
    "mine.flip": False,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--counts", type=int, nargs="+", default=[500, 5000])
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one is not None:
        _fit(arguments.out, arguments.one)
        return
    print("| photographs | peak memory, MB | seconds | class maps, MB | run folder, MB |\n|---|---|---|---|---|")
    for count in arguments.counts:
        command = [sys.executable, "-W", "ignore", __file__, "--out", str(arguments.out), "--one", str(count)]
        print(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip(), flush=True)


def _fit(out: Path, count: int) -> None:
    import tagseg
    from tagseg.data.synthetic import make_synthetic

    data, run = out / f"data{count}", out / f"run{count}"
    make_synthetic(data, train=count, val=50, sides=(64, 96))
    begun = time.perf_counter()
    tagseg.fit(data, run, recipe="demo/cam", settings=SETTINGS, quiet=True)
    seconds = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"| {count} | {peak:.0f} | {seconds:.0f} | {_megabytes(run / 'mine'):.2f} | {_megabytes(run):.1f} |")


def _megabytes(folder: Path) -> float:
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) / 1e6


if __name__ == "__main__":
    main()
