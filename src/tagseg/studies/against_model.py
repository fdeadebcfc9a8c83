"""Studies that ask the classifier itself: what does it say when the marked pixels are hidden, or shown first?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn import functional as F

from tagseg.errors import BadInput
from tagseg.evaluation.faithfulness import area, deletion, hide, insertion
from tagseg.explaining.classifiers import Classifier
from tagseg.studies.cases import Case, Variant, probability_of, variants
from tagseg.studies.tables import Table

HIDDEN_ABOVE = 0.7


def occlusion(cases: Iterable[Case], classifier: Classifier) -> list[Table]:
    """Measures what is left of a class when what the last layer's map marks above 0.7 is hidden.

    This is LayerCAM's section IV-C, of the tag that scores highest: over photographs whose highest score it is, and
    over all. Lower is better.
    """
    right, everything = _Hidden(), _Hidden()
    for case in cases:
        said = int(case.scores.argmax())
        # of several tags the one that scores highest
        tag = max(case.sample.tags, key=lambda own: float(case.scores[own]))
        k, size = case.sample.tags.index(tag), (case.image.shape[1], case.image.shape[2])
        last = [w for w in variants(case) if w.numbers == (len(case.maps[w.method].maps) - 1,)]
        marks = np.stack([way.maps(case, size)[k] for way in last])
        covered = hide(case.image.expand(len(last), -1, -1, -1), torch.from_numpy(marks).to(case.image), HIDDEN_ABOVE)
        with torch.inference_mode():
            scores = classifier.model(covered)
        for counted in (everything, right) if said == tag else (everything,):
            counted.before.append(_outcome(case.scores[None], tag, classifier))
            for way, row, mark in zip(last, scores, marks, strict=True):
                counted.after.setdefault(way.method, []).append(_outcome(row[None], tag, classifier))
                counted.hidden.setdefault(way.method, []).append(float((mark > HIDDEN_ABOVE).mean()))
    if not right.before:
        raise BadInput("the classifier names no photograph of this split right; there is nothing to hide.")
    return [right.table("photographs named right"), everything.table("photographs, named right or not")]


@dataclass
class _Hidden:
    """The outcomes of some photographs: as they are, and by method after something was hidden, and how much was."""

    before: list[tuple[bool, bool, float]] = field(default_factory=list)
    after: dict[str, list[tuple[bool, bool, float]]] = field(default_factory=dict)
    hidden: dict[str, list[float]] = field(default_factory=dict)

    def table(self, which: str) -> Table:
        columns = ("maps of", "top-1", "top-5", "confidence", "hidden")
        table = Table(f"Hiding what is above {HIDDEN_ABOVE}, {len(self.before)} {which}", columns)
        table.rows.append(("(nothing hidden)", *_means(self.before), 0.0))
        for method, outcomes in self.after.items():
            table.rows.append((method, *_means(outcomes), 100 * float(np.mean(self.hidden[method]))))
        table.note = "In percent; lower is better, and the less is hidden for it the better."
        return table


def curves(cases: Iterable[Case], classifier: Classifier) -> list[Table]:
    """Measures insertion and deletion, for last layers and fused maps.

    The measure is the area under the class's probability.
    """
    areas: dict[str, list[tuple[float, float]]] = {}
    ways: dict[str, Variant] = {}
    count = 0
    for case in cases:
        count += 1
        size = (case.image.shape[1], case.image.shape[2])
        for way in variants(case):
            layers = len(case.maps[way.method].maps)
            if way.numbers not in ((layers - 1,), tuple(range(layers))):
                continue
            maps = torch.from_numpy(way.maps(case, size)).to(case.image.device)
            ways[way.label] = way
            for k, tag in enumerate(case.sample.tags):
                score = probability_of(classifier, tag)
                both = insertion(case.image, maps[k], score), deletion(case.image, maps[k], score)
                areas.setdefault(way.label, []).append((area(both[0]), area(both[1])))
        _random(case, classifier, areas)
    if not count:
        raise BadInput("no photograph of this split has a tag; there is nothing to insert or delete.")
    table = Table(f"Insertion and deletion, {count} photographs", ("method", "layers", "insertion", "deletion"))
    for label, values in areas.items():
        found = ways.get(label)
        name = (found.method, found.layers) if found else (label, "-")
        table.rows.append((*name, *(100 * float(m) for m in np.mean(values, axis=0))))
    table.note = "Areas in percent. Insertion: higher is better; deletion: lower is better."
    return [table]


def _random(case: Case, classifier: Classifier, areas: dict[str, list[tuple[float, float]]]) -> None:
    """Smooth noise, to know what a map without knowledge reaches."""
    noise = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(len(areas.get("noise", []))))
    mark = F.interpolate(noise, size=case.image.shape[1:], mode="bilinear")[0, 0].to(case.image)
    for tag in case.sample.tags:
        score = probability_of(classifier, tag)
        both = insertion(case.image, mark, score), deletion(case.image, mark, score)
        areas.setdefault("noise", []).append((area(both[0]), area(both[1])))


def _outcome(scores: torch.Tensor, tag: int, classifier: Classifier) -> tuple[bool, bool, float]:
    """Top-1, top-5 and the probability of `tag` in scores `(1, C)`."""
    rank = int((scores[0] > scores[0, tag]).sum())
    return rank < 1, rank < 5, float(classifier.probabilities(scores)[0, tag])


def _means(outcomes: list[tuple[bool, bool, float]]) -> tuple[float, ...]:
    return tuple(100 * float(mean) for mean in np.mean(np.asarray(outcomes, float), axis=0))
