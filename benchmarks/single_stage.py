"""The single-stage methods beside each other on a plain transformer: tags, maps, labels and segmentation.

    python benchmarks/single_stage.py DATA --out FOLDER --seconds 600 --set backbone=vit_tiny_patch16_224 \\
        --set weights=FILE
    python benchmarks/single_stage.py DATA --out FOLDER --seconds 600 --set ... --picture single_stage.jpg

Every row is a whole run of `tagseg fit` in FOLDER, with as many epochs of training from tags as fit into the time (see
`equal_time`). "tags" is the mean average precision on the evaluation photographs; maps and labels (pseudo-masks) are of
the training photographs, with a background score that is chosen without masks ("oracle": with them); segmentation is of
the evaluation photographs. "ViT-CAM" has no decoder: its masks train DeepLab afterwards, with time of its own.
"""

from typing import Any

from common import mean_spread_each
from equal_time import EqualTime, Rows, arguments_parser

import tagseg
from tagseg.methods.base import load_method

ROWS: Rows = {
    "ViT-CAM": ("cam", {"train.output_stride": None, "segment.output_stride": None}),
    "AFA": ("afa", {}),
    "ToCo": ("toco", {}),
    "plain affinity": ("ss-epa", {"train.affinity": "mean"}),
    "HAAF": ("ss-epa", {}),
    "HAAF, literal": ("ss-epa", {"train.affinity": "literal"}),
    "ToCo, as in the code": ("toco", {"train.compat": "official"}),
}
COLUMNS = ("tags", "maps", "oracle", "labels", "segmentation", "epochs")


class SingleStage(EqualTime):
    """Whole runs."""

    def seconds_an_epoch(self, method: str, settings: dict[str, Any]) -> float:
        """Of the last phase, in which everything is learnt and nearly all steps lie."""
        known = load_method(method).Settings.model_fields
        whole = {f"train.{name}": 0.0 for name in ("classes_first", "spread_from") if name in known}
        return super().seconds_an_epoch(method, settings | whole)

    def numbers(self, row: str, seed: int) -> dict[str, float]:
        method, settings = self.settings_of(row)
        settings = {**settings, "seed": seed, "train.epochs": self.epochs_of(row)}
        run = self.arguments.out / f"{row.replace(', ', '-').replace(' ', '_')}-seed{seed}"
        metrics: dict[str, Any] = tagseg.fit(
            self.arguments.data, run, recipe=method, settings=settings, quiet=True
        ).metrics
        train, val = metrics["train"], metrics["val"]
        return {
            "tags": val["tags_map"],
            "maps": train["seeds"]["miou"],
            "oracle": train["oracle"]["miou"],
            "labels": train["pseudo_masks"]["miou"],
            "segmentation": val["segmentation"]["miou"],
            "epochs": float(settings["train.epochs"]),
        }

    def table(self) -> None:
        a = self.arguments
        print(self.heading())
        for row in a.rows:
            self.epochs_of(row)
        print(f"| | {' | '.join(COLUMNS)} | segmentation, each |", flush=True)
        for row in a.rows:
            found = [self.numbers(row, seed) for seed in a.seeds]
            cells = [mean_spread_each([f[column] for f in found]) for column in COLUMNS]
            print(f"| {row} | {' | '.join(f'{m} ± {d}' for m, d, _ in cells)} | {cells[-2][2]} |", flush=True)


def main() -> None:
    arguments = arguments_parser(__doc__, ROWS, first=6).parse_args()
    tables = SingleStage(arguments, ROWS)
    if arguments.picture:
        tables.picture()
    else:
        tables.table()


if __name__ == "__main__":
    main()
