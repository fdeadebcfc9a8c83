"""Tables 1 and 2 of L2G: what local views, the transfer to a global network, and saliency are worth, with the same time
to train for every row.

    python benchmarks/l2g.py DATA --out FOLDER --seconds 240 --set backbone=NAME --set weights=FILE
    python benchmarks/l2g.py DATA --out FOLDER --seconds 240 --set ... --seeds 0 --rows "L2G" "L2G, 2 views"
    python benchmarks/l2g.py DATA --out FOLDER --set ... --cost
    python benchmarks/l2g.py DATA --out FOLDER --seconds 240 --set ... --picture l2g.jpg --show NAME ...

See `equal_time` for how rows are made and measured. "sliding window" is the network of "CAM", looking through a window
of the size of a local view.

`--cost` prints what a step of L2G takes beside one of plain CAM on the same global view, with how many views, and how
much memory.
"""

import argparse
import resource
import subprocess
import sys
from typing import Any

import torch
from common import machine
from equal_time import EqualTime, Rows, arguments_parser, seconds_each, step_of

from tagseg.data.dataset import Dataset
from tagseg.methods.table import method_settings
from tagseg.pipeline.settings import MineSettings, known_settings, resolve

SHAPE = {"train.saliency": True}
ROWS: Rows = {
    "CAM": ("cam", {}),
    "sliding window": ("cam", {}),
    "local network": ("l2g-local", {}),
    "L2G": ("l2g", {}),
    "local network, shape": ("l2g-local", SHAPE),
    "L2G, shape": ("l2g", SHAPE),
    "L2G, shape, classification on both": ("l2g", {**SHAPE, "train.global_classification": True}),
    "L2G, shape, shared backbone": ("l2g", {**SHAPE, "train.shared_backbone": True}),
    **{f"L2G, shape, {n} views": ("l2g", {**SHAPE, "train.views": n}) for n in (1, 2, 8)},
    "L2G, shape, uniform views": ("l2g", {**SHAPE, "train.placement": "uniform"}),
    "L2G, shape, small views": ("l2g", {**SHAPE, "share": 0.54}),
    "L2G, shape, large views": ("l2g", {**SHAPE, "share": 0.89}),
    "L2G, shape, PCM": ("l2g", {**SHAPE, "train.pixel_correlation": True}),
    "L2G, shape, as in the code": ("l2g", {**SHAPE, "train.compat": "official", "train.attention_threshold": 0.001}),
    "L2G, as in the code": ("l2g", {"train.compat": "official"}),
    "L2G, background channel": ("l2g", {"train.background": True}),
    "L2G, PCM": ("l2g", {"train.pixel_correlation": True}),
}


class Tables(EqualTime):
    """With local views of a share of the global one, and maps through a sliding window."""

    def settings_of(self, row: str) -> tuple[str, dict[str, Any]]:
        method, settings = super().settings_of(row)
        share = settings.pop("share", None)
        if share is not None:
            side = settings.get("train.side", method_settings(method).model_fields["side"].default)
            settings |= {"train.view_side": round(share * side)}
        return method, settings

    def trained_as(self, row: str) -> str:
        return "CAM" if row == "sliding window" else row

    def mine_settings(self, row: str, network: Any) -> MineSettings:
        settings = super().mine_settings(row, network)
        if row != "sliding window":
            return settings
        side = network.settings.side
        return settings.model_copy(update={"window": round(side * 5 / 7), "window_stride": round(side / 7)})


def cost(arguments: Any, given: dict[str, Any]) -> None:
    """One line per row, each in a process of its own, for its memory."""
    print(machine())
    print("| | ms a step | of CAM's | memory above the start, MB |")
    base = None
    for name, method, extra in (
        ("CAM, the same global view", "cam", []),
        ("local network, 4 views", "l2g-local", []),
        *((f"L2G, {n} views", "l2g", [f"train.views={n}"]) for n in (1, 2, 4, 8)),
        ("L2G, 4 views, shape", "l2g", ["train.saliency=true"]),
        ("L2G, 4 views, PCM", "l2g", ["train.pixel_correlation=true"]),
    ):
        sets = [f"{k}={v}" for k, v in known_settings(method, given).items()]
        command = [sys.executable, __file__, str(arguments.data), "--out", str(arguments.out), "--step", method]
        for pair in sets + extra:
            command += ["--set", pair]
        milliseconds, memory = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-2:]
        base = base or float(milliseconds)
        print(f"| {name} | {milliseconds} | {float(milliseconds) / base:.2f} | {memory} |", flush=True)


def one_step(method: str, data: Dataset, given: dict[str, Any]) -> None:
    def peak() -> float:
        if torch.cuda.is_available():
            return torch.cuda.max_memory_allocated() / 1e6
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3

    settings = resolve(method, given)
    step, _ = step_of(data, method, settings)
    before = peak()
    milliseconds = 1000 * seconds_each(step)
    print(f"{milliseconds:.0f} {peak() - before:.0f}")


def main() -> None:
    parser = arguments_parser(__doc__, ROWS, first=6)
    parser.add_argument("--cost", action="store_true")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    tables = Tables(arguments, ROWS)
    if arguments.step:
        one_step(arguments.step, tables.data, tables.given)
    elif arguments.cost:
        cost(arguments, tables.given)
    elif arguments.picture:
        tables.picture()
    else:
        tables.table()


if __name__ == "__main__":
    main()
