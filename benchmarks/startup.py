"""What it costs to be told something: commands that compute nothing, and bad input.

    python benchmarks/startup.py DATA [--against FOLDER]

Runs every command in a process of its own, three times, and prints the least processor time and the peak memory; with
`--against`, the `src` folder of another checkout, side by side with its commands, turn and turn about.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from common import machine

COMMANDS = [
    ("--version",),
    ("--help",),
    ("fit", "--help"),
    ("recipes",),
    ("recipes", "cam"),
    ("check", "{data}", "--quiet"),
    ("fit", "nowhere", "--out", "{out}"),
    ("fit", "{data}", "--out", "{out}", "--set", "train.epoch=3"),
    ("predict", "nowhere", "{data}/images", "--out", "{out}"),
    ("explain", "{data}/images", "--model", "nowhere"),
    ("study", "boxs", "{data}", "--model", "timm:resnet18"),
]
TIMES = 3
ONE = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)
"""


def cost(words: list[str], source: Path) -> tuple[float, float]:
    """Processor seconds and megabytes of one call."""
    command = [sys.executable, "-c", ONE, sys.executable, "-m", "tagseg.cli", *words]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(source)}, capture_output=True, text=True)
    seconds, megabytes = map(float, done.stdout.split())
    return seconds, megabytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--against", type=Path, help="the src folder of another checkout")
    a = parser.parse_args()
    sources = {"here": Path(__file__).parents[1] / "src"} | ({"there": a.against} if a.against else {})
    print(f"{a.data.name}, {machine()}\n")
    heads = [f"{name}, {unit}" for name in sources for unit in ("CPU s", "MB")]
    print(f"| tagseg | {' | '.join(heads)} |{' time, memory |' if a.against else ''}")
    print("|---|" + "---|" * (len(heads) + bool(a.against)))
    with tempfile.TemporaryDirectory() as folder:
        for command in COMMANDS:
            words = [word.format(data=a.data, out=Path(folder) / "out") for word in command]
            found: dict[str, list[tuple[float, float]]] = {name: [] for name in sources}
            for _ in range(TIMES):
                for name, source in sources.items():
                    found[name].append(cost(words, source))
            least = {name: tuple(map(min, zip(*costs, strict=True))) for name, costs in found.items()}
            cells = [f"{s:.2f} | {m:.0f}" for s, m in least.values()]
            if a.against:
                cells.append(", ".join(f"{x / y:.2f}" for x, y in zip(least["here"], least["there"], strict=True)))
            print(f"| {' '.join(command).format(data='DATA', out='OUT')} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
