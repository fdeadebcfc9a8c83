"""The component table of KTSE: what simulated inter-image erasing (SIE), self-supervised regularisation (SSR) and
multi-granularity alignment (MGA) are worth, with the same time to train for every row.

    python benchmarks/ktse.py DATA --out FOLDER --seconds 240 --set backbone=NAME --set weights=FILE
    python benchmarks/ktse.py DATA --out FOLDER --seconds 240 --set ... --seeds 0 --rows "KTSE" "ACoL"
    python benchmarks/ktse.py DATA --out FOLDER --seconds 240 --set ... --picture ktse.jpg --show NAME ...
    python benchmarks/ktse.py DATA --out FOLDER --seconds 240 --set ... --labels
    python benchmarks/ktse.py DATA --out FOLDER --set ... --cost

See `equal_time` for how rows are made and measured: a map that is too large has little precision, one that is too small
little recall. `--labels` prints what the regularisation would teach with the maps of every row: how much of the
training photographs its two thresholds and PAR call background, an object, or unsure, and how much of that is right.
`--cost` prints what a step takes beside one of plain CAM with the same batch.
"""

from typing import Any

import numpy as np
import torch
from common import machine
from equal_time import COLUMNS, EqualTime, Rows, arguments_parser, seconds_each, step_of

from tagseg.data.dataset import read_mask
from tagseg.data.images import read_image
from tagseg.data.map_store import MapStore
from tagseg.data.views import resize, whole
from tagseg.labels import IGNORE
from tagseg.masks.two_thresholds import refined_labels
from tagseg.methods.ktse import ABOVE, BELOW
from tagseg.pipeline.masking import choose_background
from tagseg.pipeline.settings import MaskSettings, known_settings, resolve


def parts(erasing: str = "none", regularisation: bool = False, alignment: str = "none", **more: Any) -> dict[str, Any]:
    chosen = {"erasing": erasing, "regularisation": regularisation, "alignment": alignment, **more}
    return {f"train.{name}": value for name, value in chosen.items()}


ENDED: dict[str, Any] = {"teacher_decay": 0.0}
ALONE: dict[str, Any] = {**ENDED, "stop_runaway": False}  # as published, to whatever end
WEIGHED: dict[str, Any] = {"class_weight": 0.0125, "single_tag": True, **ALONE}
FOLLOWING: dict[str, Any] = {"high": "auto", "low": "auto"}
ROWS: Rows = {
    "CAM": ("cam", {}),
    "baseline": ("ktse", parts()),
    "SIE": ("ktse", parts("concatenate")),
    "SSR": ("ktse", parts(regularisation=True)),
    "SIE, SSR": ("ktse", parts("concatenate", True)),
    "KTSE": ("ktse", parts("concatenate", True, "both")),
    "SIE, same photograph": ("ktse", parts("concatenate", partner="itself")),
    "SSR, no teacher, thresholds that follow": ("ktse", parts(regularisation=True, **ALONE, **FOLLOWING)),
    "SSR, no teacher": ("ktse", parts(regularisation=True, **ALONE)),
    "SSR, no teacher, ended": ("ktse", parts(regularisation=True, **ENDED)),
    "KTSE, no teacher, ended": ("ktse", parts("concatenate", True, "both", **ENDED)),
    "SSR, weighed": ("ktse", parts(regularisation=True, **WEIGHED)),
    "SSR, weighed, thresholds that follow": ("ktse", parts(regularisation=True, **WEIGHED, **FOLLOWING)),
    "KTSE, no teacher": ("ktse", parts("concatenate", True, "both", **ALONE)),
    "KTSE, weighed": ("ktse", parts("concatenate", True, "both", **WEIGHED)),
    "SIE, SSR, global": ("ktse", parts("concatenate", True, "global")),
    "SIE, SSR, local": ("ktse", parts("concatenate", True, "local")),
    "SIE, one way": ("ktse", parts("concatenate", bidirectional=False)),
    "SIE, SSR, one way": ("ktse", parts("concatenate", True, bidirectional=False)),
    "CutMix": ("ktse", parts("cutmix")),
    "CutMix, SSR": ("ktse", parts("cutmix", True)),
    "MGA": ("ktse", parts(alignment="both")),
    "KTSE, as in the code": ("ktse", parts("concatenate", True, "both", compat="official", stop_runaway=False)),
    "ACoL": ("acol", {}),
    "AEFT": ("aeft", {}),
}
SHOWN = tuple("precision" if name == "noise" else name for name in COLUMNS)


def cost(tables: EqualTime) -> None:
    """A step after the warm-up, of each row."""
    print(f"{machine()}\n\n| | ms a step | of CAM's |")
    batch = resolve("ktse", known_settings("ktse", tables.given)).train.batch_size
    base = None
    for row in tables.arguments.rows:
        method, settings = tables.settings_of(row)
        warm = known_settings(method, {"train.warmup": 0, "train.batch_size": batch})
        milliseconds = 1000 * seconds_each(step_of(tables.data, method, resolve(method, settings | warm))[0])
        base = base or milliseconds
        print(f"| {row} | {milliseconds:.0f} | {milliseconds / base:.2f} |", flush=True)


def around(store: MapStore, tables: EqualTime) -> tuple[float, float]:
    """The thresholds around the score that cuts the maps."""
    cut = choose_background(store, tables.data.train, MaskSettings())
    return min(0.99, cut + ABOVE), max(0.01, cut - BELOW)


def labels(tables: EqualTime) -> None:
    """Of the first seed, percentages of all pixels and of the labelled ones; photographs are as large as for mining."""
    names = ("background", "right", "objects", "right", "unsure", "of the objects found")
    print(f"{tables.arguments.data.name}\n\n| | {' | '.join(names)} |")
    for row in tables.arguments.rows:
        store, _ = tables.maps_of(row, tables.run_of(row, tables.arguments.seeds[0]))
        settings = resolve("ktse", known_settings("ktse", tables.given)).train
        high, low = (settings.high, settings.low) if settings.high != "auto" else around(store, tables)
        counts = np.zeros((3, 3))  # background, object, unsure; truly background, truly that object, another
        for sample in tables.data.train:
            if sample.mask is None:
                continue
            photo = read_image(sample.image)
            factor = tables.mine_side / max(photo.shape[:2])
            view = resize(whole(photo, read_mask(sample.mask)), tuple(round(n * factor) for n in photo.shape[:2]))
            size, stored = view.image.shape[:2], store.read(sample.name)
            maps, tags = torch.zeros(1, len(tables.data.classes), *size), torch.zeros(1, len(tables.data.classes))
            maps[0, list(stored.classes)] = torch.from_numpy(stored.at(size))
            tags[0, list(sample.tags)] = 1
            pixels = torch.from_numpy(view.image).permute(2, 0, 1)[None].float()
            found = refined_labels(pixels, maps, tags, high=high, low=low)[0].numpy()
            for said, where in enumerate((found == 0, (found > 0) & (found != IGNORE), found == IGNORE)):
                truth = view.mask[where & (view.mask != IGNORE)]
                same = truth == found[where & (view.mask != IGNORE)]
                right = int((same & (truth > 0)).sum())
                empty = int((truth == 0).sum())
                counts[said] += (empty, right, truth.size - empty - right)
        share, total = 100 * counts / counts.sum(), counts.sum(axis=1)
        cells = (
            share[0].sum(),
            100 * counts[0, 0] / total[0],
            share[1].sum(),
            100 * counts[1, 1] / max(1, total[1]),
            share[2].sum(),
            100 * counts[1, 1] / counts[:, 1:].sum(),
        )
        print(f"| {row} | {' | '.join(f'{cell:.1f}' for cell in cells)} |", flush=True)


def main() -> None:
    parser = arguments_parser(__doc__, ROWS, first=6)
    parser.add_argument("--labels", action="store_true")
    parser.add_argument("--cost", action="store_true")
    arguments = parser.parse_args()
    tables = EqualTime(arguments, ROWS, SHOWN)
    if arguments.cost:
        cost(tables)
    elif arguments.labels:
        labels(tables)
    elif arguments.picture:
        tables.picture()
    else:
        tables.table()


if __name__ == "__main__":
    main()
