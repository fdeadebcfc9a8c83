"""One `tagseg fit` per seed, and the mean and spread of what they reach.

    python benchmarks/seeds.py DATA --out runs/voc_mini --seeds 0 1 2 --set backbone=mobilenetv2_100 --set weights=FILE

Runs that are finished are only read, so that several processes may each fit one seed before the last call collects.
"""

from typing import Any

import numpy as np
from common import machine, mean_spread_each, seeds_parser

import tagseg
from tagseg.files import read_json
from tagseg.pipeline.settings import parse_assignments

PARTS = (
    ("seeds at the chosen background score, training", lambda m: m["train"]["seeds"]["miou"]),
    (
        "seeds at 0.30, training",
        lambda m: m["train"]["curve"]["miou"][m["train"]["curve"]["background"].index(0.3)],
    ),
    ("seeds at the oracle score, training", lambda m: m["train"]["oracle"]["miou"]),
    ("seeds, precision", lambda m: m["train"]["seeds"]["precision"]),
    ("seeds, recall", lambda m: m["train"]["seeds"]["recall"]),
    ("pseudo-masks (PAR), training", lambda m: m["train"]["pseudo_masks"]["miou"]),
    ("class maps, evaluation", lambda m: m["val"]["class_maps"]["miou"]),
    ("segmentation, evaluation", lambda m: m["val"]["segmentation"]["miou"]),
    ("tags, mean average precision, evaluation", lambda m: m["val"]["tags_map"]),
    ("chosen background score", lambda m: 100 * m["train"]["background"]),
    ("oracle background score", lambda m: 100 * m["train"]["oracle"]["background"]),
)


def main() -> None:
    arguments = seeds_parser(__doc__).parse_args()
    settings = parse_assignments(arguments.set)
    metrics: list[dict[str, Any]] = []
    seconds: list[dict[str, float]] = []
    for seed in arguments.seeds:
        out = arguments.out / f"seed{seed}"
        result = tagseg.fit(
            arguments.data, out, recipe=arguments.recipe, settings={**settings, "seed": seed}, quiet=True
        )
        metrics.append(result.metrics.present())
        seconds.append(
            {s: read_json(out / s / "stage.json")["seconds"] for s in ("train", "mine", "masks", "segment", "report")}
        )
    print(f"{arguments.data.name}, seeds {arguments.seeds}, {machine()}\n")
    print("| | mean | spread (standard deviation) | each |\n|---|---|---|---|")
    for name, get in PARTS:
        print(f"| {name} | {' | '.join(mean_spread_each([get(m) for m in metrics]))} |")
    for stage in seconds[0]:
        values = np.array([s[stage] for s in seconds])
        each = ", ".join(f"{v:.0f}" for v in values)
        print(f"| seconds, {stage} | {values.mean():.0f} | {np.ptp(values):.0f} (range) | {each} |")


if __name__ == "__main__":
    main()
