"""Draws `docs/results/*.md` from `results/*.csv`, which `tagseg compare` writes: all methods, and each by itself.

    python benchmarks/pages.py            # writes the pages
    python benchmarks/pages.py --check    # says which of them are not what the files say

`all.md` has every row of every file, and how far it is from plain CAM of the same file. The page of a method has the
rows that its paper compares (`results/published.csv`), with every class where published logs have them
(`results/published_classes.csv`). Of every file with one of these rows beside plain CAM it has a section.
"""

import argparse
import csv
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
RESULTS, PAGES = ROOT / "results", ROOT / "docs" / "results"
WHERE = {
    "frozen": "Linear heads on stored features: the network stays as it is",
    "frozen_40_seconds": "Linear heads on stored features, at equal time",
    "frozen_15_seconds": "Linear heads on stored features, at equal time",
    "oaa": "Linear heads on stored features, when OAA was mended",
    "heads": "What stands on a network learns from views; the network stays as it is",
    "heads_500_updates": "What stands on a network learns from views, for a shorter time",
    "cnn": "A convolutional network, fine-tuned",
    "cnn_short": "A convolutional network, fine-tuned for a short time",
    "cnn_short_more": "A convolutional network, fine-tuned for a short time, on another machine: further rows",
    "transformers": "A plain transformer, fine-tuned",
    "transformers_slower": "A plain transformer, fine-tuned at a lower rate",
    "transformers_kept": "What stands on a plain transformer learns from views; the transformer stays as it is",
    "transformers_kept_100_seconds": "The same, at equal time",
    "gcn": "Spread by a graph network, which learns from the maps",
}
NUMBERS = {
    "none:recall": "recall",
    "none:noise": "noise",
    "recall": "recall at the start",
    "noise": "noise at the start",
    "tags_map": "tags",
    "updates": "updates",
    "seconds": "seconds",
}
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
    return {"all": overview(measured)} | {
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


def overview(measured: dict[Path, Rows]) -> str:
    """Returns the page on which all methods stand beside each other, a table for every file."""
    lines = [
        "# All methods beside each other",
        "",
        "Made by `python benchmarks/pages.py`. Every row that was measured, with the mean and the spread of its seeds; "
        "the best maps after spreading come first. *Against CAM* is how far they are from those of plain CAM in the "
        "same table, for the mean of the seeds that both have, and for how many of these they are above it. A method's "
        "rows at other settings stand in other tables: compare within one. Scores that cut maps are chosen without "
        "masks. Recall and noise are of maps cut at half of their maximum; at the start, of those that a method makes "
        "others of, where it does. What each table shows is told on "
        "[the page of comparisons](../experiments/comparison.md).",
    ]
    for data in sorted({runs[0]["data"] for runs in measured.values()}):
        lines += ["", f"## {data}"]
        own = {path: runs for path, runs in measured.items() if runs[0]["data"] == data}
        for path, runs in sorted(own.items(), key=lambda item: [*WHERE, stem(*item)].index(stem(*item))):
            groups, chains = grouped(runs), refined(runs)
            judged = chains[1] if len(chains) > 1 else chains[0]
            of = {row: known([r[f"{judged}:miou"] for r in members]) for row, members in groups.items()}
            head = [*(f"mIoU, {c}" for c in chains), *(["against CAM"] if "CAM" in groups else []), *NUMBERS.values()]
            lines += ["", f"### {WHERE.get(stem(path, runs), stem(path, runs))}", "", measured_how(path, runs), ""]
            lines += [f"| | {' | '.join(head)} |", "|" + "---|" * (1 + len(head))]
            seeds = len({r["seed"] for r in runs})
            for row in sorted(groups, key=lambda row: -np.mean(of[row] or [0])):
                row_cells = cells(groups[row], chains, seeds)
                if "CAM" in groups:
                    row_cells.insert(len(chains), against(groups[row], groups["CAM"], f"{judged}:miou"))
                lines.append(f"| {row} | {' | '.join(row_cells)} |")
    return "\n".join([*lines, ""])


def stem(path: Path, runs: Rows) -> str:
    return path.stem.removesuffix("_" + runs[0]["data"])


def measured_how(path: Path, runs: Rows) -> str:
    """Returns the file, its photographs, budget and machines, and what networks have seen, by row if it differs."""
    first = runs[0]
    on = first.get("measured") or first["photographs"]
    of = f"{on} of {first['photographs']}" if on != first["photographs"] else on
    machines = "; or ".join(dict.fromkeys(run["machine"] for run in runs))
    priors: dict[str, list[str]] = {}
    for run in runs:
        rows = priors.setdefault(run["prior"], [])
        if run["row"] not in rows:
            rows.append(run["row"])
    usual = max(priors, key=lambda prior: len(priors[prior]))
    seen = "; ".join([usual, *(f"{', '.join(rows)}: {prior}" for prior, rows in priors.items() if prior != usual)])
    return (
        f"[results/{path.name}](../../results/{path.name}): {of} training photographs, {first['budget']}; {machines}. "
        f"Beside the tags the networks have seen: {seen}."
    )


def refined(runs: Rows) -> list[str]:
    """Returns what was done with the maps, as columns have it: `none`, `proxy`, `proxy+crf`."""
    return [key.removesuffix(":miou") for key in runs[0] if key.endswith(":miou")]


def grouped(runs: Rows) -> dict[str, Rows]:
    return {row: [r for r in runs if r["row"] == row] for row in dict.fromkeys(r["row"] for r in runs)}


def cells(members: Rows, chains: list[str], seeds: int) -> list[str]:
    """Returns mIoU for every chain, then what else is known of the runs of one row."""
    miou = [spread([r[f"{chain}:miou"] for r in members], seeds) for chain in chains]
    return miou + [mean([r[key] for r in members], 0 if key in ("updates", "seconds") else 1) for key in NUMBERS]


def against(members: Rows, cam: Rows, key: str) -> str:
    """Returns how far a row is from CAM in points, and for how many of the seeds that both have it is above."""
    if members is cam:
        return ""
    base = {r["seed"]: float(r[key]) for r in cam if r[key]}
    gains = [float(r[key]) - base[r["seed"]] for r in members if r[key] and r["seed"] in base]
    return f"{np.mean(gains):+.1f} ({sum(g > 0 for g in gains)} of {len(gains)})" if gains else "-"


def section(path: Path, runs: Rows) -> list[str]:
    """Returns what a file says of some of its rows, as Markdown."""
    groups, chains = grouped(runs), refined(runs)
    lines = [
        f"## {runs[0]['data']}: {stem(path, runs)}",
        "",
        f"{measured_how(path, runs)} Mean and spread over seeds {', '.join(dict.fromkeys(r['seed'] for r in runs))}; "
        "scores that cut maps are chosen without masks.",
        "",
        f"| | {' | '.join(f'mIoU, {c}' for c in chains)} | {' | '.join(NUMBERS.values())} |",
        "|" + "---|" * (1 + len(chains) + len(NUMBERS)),
    ]
    seeds = len({r["seed"] for r in runs})
    for row, members in groups.items():
        lines.append(f"| {row} | {' | '.join(cells(members, chains, seeds))} |")
    last = chains[-1]
    start = f"{last}:"
    classes = [key.removeprefix(start) for key in runs[0] if key.startswith(start)]
    classes = [c for c in classes if c not in ("miou", "oracle", "score", "recall", "noise")]
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


def known(values: list[str]) -> list[float]:
    return [float(v) for v in values if v]


def mean(values: list[str], digits: int = 1) -> str:
    numbers = known(values)
    return f"{np.mean(numbers):.{digits}f}" if numbers else "-"


def spread(values: list[str], seeds: int) -> str:
    """Returns mean and spread; and the number of seeds, where other rows have more."""
    numbers = known(values)
    of = f" ({len(numbers)} of {seeds} seeds)" if 0 < len(numbers) < seeds else ""
    return f"{np.mean(numbers):.1f} ± {np.std(numbers, ddof=1):.1f}{of}" if len(numbers) > 1 else mean(values) + of


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
