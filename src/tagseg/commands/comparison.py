"""What a comparison found: a table over rows and seeds, as Markdown, as CSV with one line a run, and as a page."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tagseg.commands.measured import Measured
from tagseg.data.dataset import Sample, read_mask
from tagseg.data.images import read_image, voc_palette
from tagseg.errors import brief
from tagseg.files import write_aside
from tagseg.report.comparison import Page, PageRow, write_page
from tagseg.report.pictures import overlay_mask
from tagseg.report.sheets import contact_sheet, write_picture

# what `compare.csv` has of a premise; columns that came later stand last
PREMISE = (
    "recall", "noise", "tags_map", "rate", "trusted", "saturated", "disagreement", "unlearnt",
    "maps_tags_map", "kept_epoch",
)  # fmt: skip
WHOLE = ("updates", "seconds")  # columns without decimals
Gallery = Callable[[], tuple[list[str], list[tuple[Sample, list[np.ndarray]]]]]


@dataclass(frozen=True)
class Comparison:
    """The result of `tagseg.compare`.

    data: name of the data set.
    photographs: for training.
    measured: of these, on which the numbers are.
    classes: their names.
    seeds: of every row.
    budget: how much training every row had, in words.
    chains: of refinements, by which there is a column each.
    runs: what was measured of every run.
    """

    data: str
    photographs: int
    measured: int
    classes: tuple[str, ...]
    seeds: tuple[int, ...]
    budget: str
    chains: tuple[str, ...]
    runs: tuple[Measured, ...]

    @property
    def rows(self) -> list[str]:
        """Returns the names of the rows, in their order."""
        return list(dict.fromkeys(run.row for run in self.runs))

    def of(self, row: str) -> list[Measured]:
        """Returns the runs of a row, one for each seed."""
        return [run for run in self.runs if run.row == row]

    def columns(self) -> list[str]:
        """Returns the names of the columns after that of the row."""
        maps = [f"mIoU, {chain}" for chain in self.chains]
        first = [f"{name}, {self.chains[0]}" for name in ("*oracle*", "recall", "noise")]
        return [*maps, *first, "recall at the start", "noise at the start", "tags", "updates", "seconds"]

    def values(self, run: Measured) -> list[float | None]:
        """Returns the numbers of a run in the order of `columns`."""
        first, premise = run.numbers[self.chains[0]], run.premise
        maps = [run.numbers[chain].miou for chain in self.chains]
        found = [first.oracle, first.recall, first.noise]
        return [*maps, *found, premise.recall, premise.noise, premise.tags_map, run.updates, run.seconds]

    def cells(self, row: str) -> list[str]:
        """Returns a row's means over seeds: of the refinements with their spread, updates from least to most."""
        columns = self.columns()
        cells: list[str] = []
        for place, values in enumerate(zip(*(self.values(run) for run in self.of(row)), strict=True)):
            known = [v for v in values if v is not None]
            if not known:
                cells.append("-")
            elif place < len(self.chains) and len(known) > 1:
                cells.append(f"{np.mean(known):.1f} ± {np.std(known, ddof=1):.1f}")
            elif columns[place] == "updates" and min(known) != max(known):  # some of the seeds were ended
                cells.append(f"{min(known):.0f} to {max(known):.0f}")
            else:
                cells.append(f"{np.mean(known):.0f}" if columns[place] in WHOLE else f"{np.mean(known):.1f}")
        return cells

    def facts(self) -> str:
        """Returns in a sentence how the numbers came about."""
        priors = "; ".join(dict.fromkeys(run.prior for run in self.runs))
        machines = "; ".join(dict.fromkeys(run.machine for run in self.runs))
        on = "" if self.measured == self.photographs else f", {self.measured} of them measured"
        return (
            f"{self.photographs} training photographs of {self.data}{on}, {self.budget}, seeds "
            f"{', '.join(map(str, self.seeds))}; {machines}. Beside the tags the networks have seen: {priors}. "
            "Every background score is chosen without masks, but for the one that is called oracle. Recall and noise "
            "are of maps cut at half of their maximum; at the start, of those that a method makes others of, where it "
            "does. Mean and spread over seeds."
        )

    def markdown(self) -> str:
        """Returns the table, and below it what does not hold of the rows' premises."""
        lines = [self.facts(), "", f"| | {' | '.join(self.columns())} |", "|" + "---|" * (len(self.columns()) + 1)]
        lines += [f"| {row} | {' | '.join(self.cells(row))} |" for row in self.rows]
        said = [f"- {row}: {sentence}" for row in self.rows for sentence in self.premises(row)]
        return "\n".join([*lines, *(["", "What the methods build on:", "", *said] if said else []), ""])

    def premises(self, row: str) -> list[str]:
        """Returns what the first seed says of the row's premise, and how many seeds ran away and were ended."""
        runs = self.of(row)
        ended = [str(run.seed) for run in runs if run.premise.kept_epoch is not None]
        more = [f"Training ran away and was ended, and the network of the warm-up kept, of seed {', '.join(ended)}."]
        return [*runs[0].premise.sentences, *(more if ended else [])]

    def csv(self) -> str:
        """Returns one line for every run, with the IoU of every class after every chain."""
        text = io.StringIO()
        names = ["background", *self.classes]
        heads = [
            "data",
            "photographs",
            "measured",
            "row",
            "recipe",
            "settings",
            "seed",
            "budget",
            "updates",
            "seconds",
            "machine",
        ]
        heads += ["prior", *PREMISE]
        for chain in self.chains:
            heads += [f"{chain}:miou", f"{chain}:oracle", f"{chain}:score", *(f"{chain}:{n}" for n in names)]
        heads += [f"{chain}:{name}" for chain in self.chains for name in ("recall", "noise")]  # came last
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(heads)
        for run in self.runs:
            settings = " ".join(f"{key}={value}" for key, value in run.settings.items() if not key.endswith("weights"))
            line: list[object] = [self.data, self.photographs, self.measured, run.row, run.recipe, settings, run.seed]
            line += [self.budget, run.updates, round(run.seconds, 1), run.machine, run.prior]
            line += [getattr(run.premise, name) for name in PREMISE]
            for chain in self.chains:
                found = run.numbers[chain]
                line += [found.miou, found.oracle, found.background, *(found.classes.get(n) for n in names)]
            line += [value for chain in self.chains for value in (run.numbers[chain].recall, run.numbers[chain].noise)]
            writer.writerow(["" if value is None else value for value in line])
        return text.getvalue()

    def write(self, folder: Path, gallery: Gallery) -> None:
        """Writes `compare.md`, `compare.csv`, `gallery.jpg` and `compare.html`, each whole or not at all.

        `gallery` gives the names of the rows, and photographs with a mask by each; where it cannot, the page says so.
        """
        for name, text in (("compare.md", self.markdown()), ("compare.csv", self.csv())):
            with write_aside(folder / name) as aside:
                aside.write_text(text, encoding="utf-8")
        picture, remark = None, ""
        try:
            picture = self._picture(gallery)
            write_picture(folder / "gallery.jpg", picture)
        except Exception as error:  # what only shows something never fails a run
            remark = f"The gallery is left out, because it could not be made ({brief(error)})."
        rows = [PageRow(row, self.cells(row), self.premises(row), self._iou(row)) for row in self.rows]
        page = Page(
            title=f"Methods on {self.data}",
            facts=self.facts(),
            columns=self.columns(),
            classes=["background", *self.classes],
            chain=self.chains[-1],
            rows=rows,
            gallery=picture,
            remark=remark,
        )
        with write_aside(folder / "compare.html") as aside:
            write_page(aside, page)

    def _iou(self, row: str) -> list[float | None]:
        """The mean over seeds of every class after the last chain."""
        means = []
        for name in ("background", *self.classes):
            values = [run.numbers[self.chains[-1]].classes.get(name) for run in self.of(row)]
            known = [v for v in values if v is not None]
            means.append(float(np.mean(known)) if known else None)
        return means

    def _picture(self, gallery: Gallery) -> np.ndarray:
        names, lines = gallery()
        pictures: list[Sequence[np.ndarray]] = []
        labels = []
        for sample, masks in lines:
            assert sample.mask is not None
            photo = read_image(sample.image)
            shown = [overlay_mask(photo, mask, voc_palette()) for mask in (*masks, read_mask(sample.mask))]
            pictures.append([photo, *shown])
            labels.append("\n".join(self.classes[tag] for tag in sample.tags))
        return contact_sheet(labels, ["photograph", *names, "truth"], pictures)
