"""The studies of what single channels do, by name; what each measures is told where it stands."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from tagseg.attribution.hierarchy import Hierarchy
from tagseg.data.dataset import Sample
from tagseg.explaining.classifiers import Classifier
from tagseg.progress import Advance
from tagseg.report.curves import line_figure
from tagseg.report.sheets import rendered
from tagseg.studies import altered, decomposed
from tagseg.studies.decomposed import Example, Findings, examples
from tagseg.studies.walk import Table

STUDIES = (
    "agreement",
    "contributions",
    "discriminativeness",
    "context",
    "sanity",
    "surrogate",
    "removal",
    "adversarial",
)
ANY_CLASSES = ("agreement", "contributions", "sanity", "adversarial")  # the photographs' tags are not asked for
FEW = {"agreement": 20, "sanity": 10, "removal": 20, "surrogate": 60}  # photographs, if not told otherwise


def run(
    name: str,
    classifier: Classifier,
    samples: Sequence[Sample],
    layers: str | Sequence[str],
    advance: Advance,
    against: Classifier | None = None,
) -> tuple[list[Table], np.ndarray]:
    """Tables and a picture `(H, W, 3)` uint8 of one of `STUDIES`."""
    wanted: Any = layers if isinstance(layers, str) else list(layers)
    found = examples(classifier, samples, advance)
    said = findings(name, classifier, found, wanted, against)
    figure = line_figure(said.lines, x=said.x, y=said.y)
    figure.set_dpi(160)
    return said.tables, rendered(figure)


def findings(
    name: str, classifier: Classifier, found: Iterable[Example], layers: Any, against: Classifier | None = None
) -> Findings:
    """The same of photographs that were read before, without a picture."""
    model = classifier.model
    if name == "sanity":
        return altered.sanity(found, model, layers, None if against is None else against.model)
    hierarchy = Hierarchy(model, layers)
    if name in ("discriminativeness", "context"):
        return getattr(decomposed, name)(found, hierarchy, classifier.classes)
    if name == "adversarial":
        return altered.adversarial(found, hierarchy, classifier)
    return getattr(decomposed if name in ("agreement", "contributions") else altered, name)(found, hierarchy)
