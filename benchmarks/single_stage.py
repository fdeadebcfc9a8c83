"""The single-stage methods beside each other on a plain transformer: tags, maps, labels and segmentation.

    python benchmarks/single_stage.py DATA --out FOLDER --seconds 600 --set backbone=vit_tiny_patch16_224 \\
        --set weights=FILE
    python benchmarks/single_stage.py DATA --out FOLDER --epochs 4 --set ...
    python benchmarks/single_stage.py DATA --out FOLDER --epochs 4 --set ... --picture single_stage.jpg
    python benchmarks/single_stage.py DATA --out FOLDER --epochs 4 --set ... --spread --rows AFA ToCo
    python benchmarks/single_stage.py DATA --out FOLDER --epochs 4 --set ... --weights --rows HAAF
    python benchmarks/single_stage.py DATA --out FOLDER --set ... --cost

Every row is a whole run of `tagseg fit` in FOLDER, with as many epochs of training from tags as fit into the time (see
`equal_time`). "tags" is the mean average precision on the evaluation photographs; maps and labels (pseudo-masks) are of
the training photographs, with a background score that is chosen without masks ("oracle": with them); segmentation is of
the evaluation photographs. "ViT-CAM" has no decoder: its masks train DeepLab afterwards, with time of its own.

`--spread` prints what the maps of trained networks are worth, at one scale, as they are and when they are spread along
the plain affinity afterwards, which then has taught nothing. `--weights` prints the learnt weights of the blocks, first
to last, means over evaluation photographs, and how much they differ between photographs. `--cost` prints what a step
takes in which everything is learnt, and what the passes of its transformer take alone, forward, and backward where
something is learnt from them.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import machine
from equal_time import EqualTime, Rows, arguments_parser, measured, seconds_each, step_of
from torch.nn import functional as F

import tagseg
from tagseg.data.dataset import Sample
from tagseg.data.images import read_image, voc_palette
from tagseg.data.loading import normalise
from tagseg.data.views import resize, whole
from tagseg.files import read_json
from tagseg.methods.base import Method
from tagseg.methods.saved import load_saved
from tagseg.methods.table import method_settings
from tagseg.networks.precision import inference_autocast
from tagseg.pipeline.settings import known_settings, resolve
from tagseg.report.pictures import overlay_mask

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
MAPS = ("seeds", "oracle", "recall", "precision")  # of `--spread`


class SingleStage(EqualTime):
    """Whole runs."""

    until = "report"
    each = "segmentation"

    def seconds_an_epoch(self, method: str, settings: dict[str, Any]) -> float:
        """Of the last phase, in which nearly all steps lie."""
        return super().seconds_an_epoch(method, settings | self.last_phase(method))

    def last_phase(self, method: str) -> dict[str, Any]:
        """Settings with which everything is learnt from the first step."""
        known = method_settings(method).model_fields
        return {f"train.{name}": 0.0 for name in ("classes_first", "spread_from") if name in known}

    def numbers(self, row: str, seed: int) -> dict[str, float]:
        metrics = read_json(self.run_of(row, seed) / "metrics.json")
        train, val = metrics["train"], metrics["val"]
        return {
            "tags": val["tags_map"],
            "maps": train["seeds"]["miou"],
            "oracle": train["oracle"]["miou"],
            "labels": train["pseudo_masks"]["miou"],
            "segmentation": val["segmentation"]["miou"],
            "epochs": float(self.epochs_of(row)),
        }

    def drawn(self, row: str, run: Path, shown: Sequence[Sample]) -> list[list[np.ndarray]]:
        """And what its network segments, without knowing tags."""
        model = tagseg.load(run)
        maps = super().drawn(row, run, shown)
        colours = voc_palette()
        for sample, column in zip(shown, maps, strict=True):
            photo = read_image(sample.image)
            column.append(overlay_mask(photo, model.predict(photo), colours))
        return maps


class Spread(Method):
    """The class maps of a network, spread along the mean of what patches attend to."""

    def __init__(self, network: Any) -> None:
        super().__init__(network.classes, network.settings, 1)
        self.network, self.backbone = network, network.backbone

    def class_maps(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.backbone.tokens(images, attention=True)
        maps = self.network.classifier(tokens.patches).float().relu()
        maps = tokens.attention.spread(maps, normalise=True)
        return maps - maps.amin(dim=(2, 3), keepdim=True)

    def tag_logits(self, class_maps: torch.Tensor) -> torch.Tensor:
        return class_maps.amax(dim=(2, 3))


def spread(tables: EqualTime) -> None:
    print(tables.heading())
    print(f"| | {' | '.join(tables.columns)} | {tables.each}, each |", flush=True)
    for row in tables.arguments.rows:
        runs = [tables.run_of(row, seed) for seed in tables.arguments.seeds]
        for name, changed in ((row, lambda network: network), (f"{row}, spread afterwards", Spread)):
            found = []
            for run in runs:
                store, _ = tables.maps_of(name, run, changed)
                found.append(measured(tables.data, store))
            tables.line(name, found)


@torch.inference_mode()
def weights(tables: SingleStage) -> None:
    print(tables.heading())
    for row in tables.arguments.rows:
        for seed in tables.arguments.seeds:
            network = load_saved(tables.run_of(row, seed) / "train").eval()
            found = []
            for sample in tables.data.val:
                pixels = resize(whole(read_image(sample.image)), (network.side, network.side)).image
                attention = network.tokens(normalise(pixels, network.backbone)[None]).attention
                found.append(network.block_weights(attention)[0])
            each = torch.stack(found)
            means = " ".join(f"{value:.2f}" for value in each.mean(dim=0).tolist())
            print(f"| {row}, seed {seed} | {means} | {each.std(dim=0).mean():.2f} |", flush=True)


def passes(network: Any, side: int) -> Callable[[], None]:
    """Everything that the transformer sees in a step, and nothing else."""
    batch = torch.randn(network.settings.batch_size, 3, side, side, device=network.device)
    crops = batch.new_zeros(0)
    if hasattr(network, "crop_side"):
        crops = torch.randn(network.settings.crops * len(batch), 3, *[network.crop_side] * 2, device=network.device)
    scales = [network.backbone.grid.fit(side * scale, side * scale) for scale in network.settings.map_scales]
    shown = [F.interpolate(batch, at) for at in scales for _ in range(1 if at == (side, side) else 2)]

    def once() -> None:
        with inference_autocast(network.device):
            learnt = [network.backbone.tokens(views) for views in ([batch, batch, crops] if len(crops) else [batch])]
            with torch.no_grad():
                for views in shown:
                    network.backbone.tokens(views)
        sum(tokens.patches.sum() + tokens.summary.sum() + tokens.early.sum() for tokens in learnt).backward()
        if network.device.type == "cuda":
            torch.cuda.synchronize()

    return once


def cost(tables: SingleStage) -> None:
    print(f"{machine()}\n\n| | ms a step | of ViT-CAM's | passes alone, ms | of them |")
    base = None
    for row in tables.arguments.rows:
        method, settings = tables.settings_of(row)
        batch_size = resolve("toco", known_settings("toco", tables.given)).train.batch_size
        settings |= tables.last_phase(method) | {"train.batch_size": batch_size}
        step, network = step_of(tables.data, method, resolve(method, settings))
        milliseconds = 1000 * seconds_each(step, 10)
        base = base or milliseconds
        cells = [f"{milliseconds:.0f}", f"{milliseconds / base:.2f}", "", ""]
        if hasattr(network, "tokens"):
            alone = 1000 * seconds_each(passes(network, network.side), 10)
            cells[2:] = [f"{alone:.0f}", f"{milliseconds / alone:.2f}"]
        print(f"| {row} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = arguments_parser(__doc__, ROWS, first=6)
    parser.add_argument("--spread", action="store_true")
    parser.add_argument("--weights", action="store_true")
    parser.add_argument("--cost", action="store_true")
    arguments = parser.parse_args()
    tables = SingleStage(arguments, ROWS, COLUMNS)
    if arguments.cost:
        cost(tables)
    elif arguments.spread:
        spread(EqualTime(arguments, ROWS, MAPS))
    elif arguments.weights:
        weights(tables)
    elif arguments.picture:
        tables.picture()
    else:
        tables.table()


if __name__ == "__main__":
    main()
