"""One classifier per seed and one study of each, and the mean and spread of every number.

    python benchmarks/studies.py DATA --study defects --out FOLDER --seeds 0 1 2 --set weights=FILE --set train.side=385

Trains with `tagseg fit DATA --until train` (into FOLDER/seedN) where the classifier is not there yet; studies that are
there (FOLDER/STUDY-seedN) are only read. With `--column NAME` that number alone is printed, methods by layers.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from common import seeds_parser

import tagseg
from tagseg.files import read_json
from tagseg.pipeline.settings import parse_assignments


def main() -> None:
    parser = seeds_parser(__doc__)
    parser.add_argument("--study", required=True)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--method", help="with commas; without it, all that the study has")
    parser.add_argument("--column")
    arguments = parser.parse_args()
    found = [_study(arguments, seed) for seed in arguments.seeds]
    facts = {key: found[0][key] for key in ("study", "data", "split", "photographs", "side", "machine")}
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    print(f"seeds {arguments.seeds}, seconds {[round(f['seconds']) for f in found]}\n")
    if arguments.column:
        _matrix([f["tables"][0] for f in found], arguments.column)
        return
    for number, table in enumerate(found[0]["tables"]):
        print(f"| {' | '.join(table['columns'])} |\n|{'---|' * len(table['columns'])}")
        for cells in zip(*(f["tables"][number]["rows"] for f in found), strict=True):
            print(f"| {' | '.join(_cell(values) for values in zip(*cells, strict=True))} |")
        print()


def _matrix(tables: list[dict[str, Any]], column: str) -> None:
    """Methods as columns, layers as rows."""
    place = tables[0]["columns"].index(column)
    cells: dict[tuple[str, str], str] = {}
    for rows in zip(*(table["rows"] for table in tables), strict=True):
        cells[rows[0][1], rows[0][0]] = _cell(tuple(row[place] for row in rows))
    layers, methods = (list(dict.fromkeys(key[i] for key in cells)) for i in (0, 1))
    print(f"| {column} | {' | '.join(methods)} |\n|{'---|' * (len(methods) + 1)}")
    for layer in layers:
        print(f"| {layer} | {' | '.join(cells.get((layer, method), '') for method in methods)} |")


def _study(arguments: argparse.Namespace, seed: int) -> dict[str, Any]:
    run, out = arguments.out / f"seed{seed}", arguments.out / f"{arguments.study}-seed{seed}"
    result: Path = out / f"{arguments.study}.json"
    if not result.exists():
        settings = {**parse_assignments(arguments.set), "seed": seed}
        tagseg.fit(arguments.data, run, recipe=arguments.recipe, settings=settings, until="train")
        some = {"methods": arguments.method.split(",")} if arguments.method else {}
        tagseg.study(arguments.study, arguments.data, run, out, limit=arguments.limit, **some)
    return read_json(result)


def _cell(values: tuple[Any, ...]) -> str:
    """The word that all have in common, or mean and standard deviation over the seeds."""
    if not isinstance(values[0], int | float):
        return "-" if values[0] is None else str(values[0])
    spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
    return f"{np.mean(values):.1f}{spread}"


if __name__ == "__main__":
    main()
