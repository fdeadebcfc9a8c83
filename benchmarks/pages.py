"""Draws `docs/results/METHOD.md` from `results/*.csv`, which `tagseg compare` writes: published numbers, then ours.

    python benchmarks/pages.py            # writes the pages
    python benchmarks/pages.py --check    # says which of them are not what the files say

A page has the rows that a paper compares (`results/published.csv`), with every class where published logs have them
(`results/published_classes.csv`). Of every file with one of these rows beside plain
CAM it has a section.
"""

import argparse
import csv
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
RESULTS, PAGES = ROOT / "results", ROOT / "docs" / "results"
NUMBERS = {"recall": "recall", "noise": "noise", "tags_map": "tags", "updates": "updates", "seconds": "seconds"}
Rows = list[dict[str, str]]


def read(path: Path) -> Rows:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def pages() -> dict[str, str]:
    """Returns the text of every page by its name."""
    published: dict[str, Rows] = {}
    for line in read(RESULTS / "published.csv"):
        published.setdefault(line["page"], []).append(line)
    measured = {path: read(path) for path in sorted(RESULTS.glob("*.csv")) if not path.stem.startswith("published")}
    classes = read(RESULTS / "published_classes.csv")
    return {
        name: page(name, rows, [line for line in classes if line["page"] == name], measured)
        for name, rows in published.items()
    }


def page(name: str, published: Rows, classes: Rows, measured: dict[Path, Rows]) -> str:
    title = {
        "ss-epa": "ToCo and SS-EPA",
        "mctformer": "MCTformer",
        "weaktr": "WeakTr",
        "recam": "ReCAM",
        "dupl": "DuPL",
        "seenet": "SeeNet",
        "acol": "ACoL",
    }
    lines = [f"# {title.get(name, name.upper())}", "", "Made by `python benchmarks/pages.py`.", "", "## Published", ""]
    lines += ["| | recall | noise | masks | network | |", "|---|---|---|---|---|---|"]
    for row in published:
        cells = [row[key] or "-" for key in ("recall", "noise", "maps", "network")]
        lines.append(f"| {row['row']} | {' | '.join(cells)} | {row['source']} |")
    if classes:
        names = [key for key in classes[0] if key not in ("page", "row", "what", "source")]
        sources = "; ".join(dict.fromkeys(row["source"] for row in classes))
        lines += ["", f"IoU of every class on VOC's val set, from the published log ({sources}):", ""]
        lines += [f"| | {' | '.join(['mIoU', *names[1:]])} |", "|" + "---|" * (1 + len(names))]
        lines += [f"| {r['row']}, {r['what']} | {' | '.join(r[n] for n in names)} |" for r in classes]
    rows = [row["row"] for row in published]
    found = 0
    for path, runs in measured.items():
        # a method may be measured in part, or with one thing changed
        own = [r for r in runs if r["row"] in rows or r["recipe"].split("/")[-1].startswith(name)]
        if any(r["row"] != "CAM" for r in own):
            own += [r for r in runs if r["row"] == "CAM" and r not in own]
            lines += ["", *section(path, [r for r in runs if r in own])]
            found += 1
    if not found:
        lines += ["", "## Here", "", "There is no file of a comparison yet; see [results.md](../results.md)."]
    return "\n".join([*lines, ""])


def section(path: Path, runs: Rows) -> list[str]:
    """Returns what a file says of some of its rows, as Markdown."""
    first = runs[0]
    chains = [key.removesuffix(":miou") for key in first if key.endswith(":miou")]
    on = first.get("measured") or first["photographs"]
    of = f"{on} of {first['photographs']}" if on != first["photographs"] else on
    lines = [
        f"## {first['data']}: {path.stem.removesuffix('_' + first['data'])}",
        "",
        f"[results/{path.name}](../../results/{path.name}): {of} training photographs, {first['budget']}; "
        f"{first['machine']}. Beside the tags the networks have seen: {first['prior']}. Mean and spread over seeds "
        f"{', '.join(dict.fromkeys(r['seed'] for r in runs))}; scores that cut maps are chosen without masks.",
        "",
        f"| | {' | '.join(f'mIoU, {c}' for c in chains)} | {' | '.join(NUMBERS.values())} |",
        "|" + "---|" * (1 + len(chains) + len(NUMBERS)),
    ]
    groups = {row: [r for r in runs if r["row"] == row] for row in dict.fromkeys(r["row"] for r in runs)}
    seeds = len({r["seed"] for r in runs})
    for row, members in groups.items():
        cells = [spread([r[f"{chain}:miou"] for r in members], seeds) for chain in chains]
        cells += [mean([r[key] for r in members], 0 if key in ("updates", "seconds") else 1) for key in NUMBERS]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    last = chains[-1]
    start = f"{last}:"
    classes = [key.removeprefix(start) for key in first if key.startswith(start)]
    classes = [c for c in classes if c not in ("miou", "oracle", "score")]
    lines += [
        "",
        f"IoU of every class, `{last}`:",
        "",
        f"| | {' | '.join(classes)} |",
        "|" + "---|" * (1 + len(classes)),
    ]
    for row, members in groups.items():
        lines.append(f"| {row} | {' | '.join(mean([r[start + c] for r in members]) for c in classes)} |")
    return lines


def mean(values: list[str], digits: int = 1) -> str:
    known = [float(v) for v in values if v]
    return f"{np.mean(known):.{digits}f}" if known else "-"


def spread(values: list[str], seeds: int) -> str:
    """Returns mean and spread; and the number of seeds, where other rows have more."""
    known = [float(v) for v in values if v]
    of = f" ({len(known)} of {seeds} seeds)" if 0 < len(known) < seeds else ""
    return f"{np.mean(known):.1f} ± {np.std(known, ddof=1):.1f}{of}" if len(known) > 1 else mean(values) + of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check, other = parser.parse_args().check, []
    for name, text in pages().items():
        path = PAGES / f"{name}.md"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            other.append(str(path.relative_to(ROOT)))
            if not check:
                PAGES.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
    if check and other:
        sys.exit(f"not what results/*.csv say: {', '.join(other)}")


if __name__ == "__main__":
    main()
