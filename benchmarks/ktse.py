"""The component table of KTSE: what simulated inter-image erasing (SIE), self-supervised regularisation (SSR) and
multi-granularity alignment (MGA) are worth, with the same time to train for every row.

    python benchmarks/ktse.py DATA --out FOLDER --seconds 240 --set backbone=NAME --set weights=FILE
    python benchmarks/ktse.py DATA --out FOLDER --seconds 240 --set ... --seeds 0 --rows "KTSE" "ACoL"
    python benchmarks/ktse.py DATA --out FOLDER --seconds 240 --set ... --picture ktse.jpg --show NAME ...
    python benchmarks/ktse.py DATA --out FOLDER --set ... --cost

See `equal_time` for how rows are made and measured: a map that is too large has little precision, one that is too small
little recall. `--cost` prints what a step takes beside one of plain CAM with the same batch.
"""

from typing import Any

from common import machine
from equal_time import COLUMNS, EqualTime, Rows, arguments_parser, known_to, seconds_each, step_of

from tagseg.pipeline.settings import resolve


def parts(erasing: str = "none", regularisation: bool = False, alignment: bool = False, **more: Any) -> dict[str, Any]:
    chosen = {"erasing": erasing, "regularisation": regularisation, "alignment": alignment, **more}
    return {f"train.{name}": value for name, value in chosen.items()}


ROWS: Rows = {
    "CAM": ("cam", {}),
    "baseline": ("ktse", parts()),
    "SIE": ("ktse", parts("concatenate")),
    "SSR": ("ktse", parts(regularisation=True)),
    "SIE, SSR": ("ktse", parts("concatenate", True)),
    "KTSE": ("ktse", parts("concatenate", True, True)),
    "CutMix": ("ktse", parts("cutmix")),
    "CutMix, SSR": ("ktse", parts("cutmix", True)),
    "MGA": ("ktse", parts(alignment=True)),
    "KTSE, as in the code": ("ktse", parts("concatenate", True, True, compat="official")),
    "ACoL": ("acol", {}),
    "AEFT": ("aeft", {}),
}
SHOWN = tuple("precision" if name == "noise" else name for name in COLUMNS)


def cost(tables: EqualTime) -> None:
    """A step after the warm-up, of each row."""
    print(f"{machine()}\n\n| | ms a step | of CAM's |")
    batch = resolve("ktse", known_to("ktse", tables.given)).train.batch_size
    base = None
    for row in tables.arguments.rows:
        method, settings = tables.settings_of(row)
        warm = known_to(method, {"train.warmup": 0, "train.batch_size": batch})
        milliseconds = 1000 * seconds_each(step_of(tables.data, method, resolve(method, settings | warm))[0])
        base = base or milliseconds
        print(f"| {row} | {milliseconds:.0f} | {milliseconds / base:.2f} |", flush=True)


def main() -> None:
    parser = arguments_parser(__doc__, ROWS, first=6)
    parser.add_argument("--cost", action="store_true")
    arguments = parser.parse_args()
    tables = EqualTime(arguments, ROWS, SHOWN)
    if arguments.cost:
        cost(tables)
    elif arguments.picture:
        tables.picture()
    else:
        tables.table()


if __name__ == "__main__":
    main()
