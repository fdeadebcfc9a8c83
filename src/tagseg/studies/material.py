"""What a study works on, made when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tagseg.attribution.hierarchy import Hierarchy
from tagseg.data.dataset import Sample
from tagseg.data.regions import Regions
from tagseg.explaining.classifiers import Classifier
from tagseg.explaining.crops import TenCrops
from tagseg.explaining.explainer import Explainer
from tagseg.progress import Advance
from tagseg.settings import Compat
from tagseg.studies.cases import Case, cases_of
from tagseg.studies.decomposed import Example, examples

PICTURED = 6


@dataclass
class Material:
    """A classifier, photographs, and what was asked of them.

    classifier: the network.
    classes: of the data set.
    samples: the photographs.
    methods, layers: of the maps.
    threshold: of boxes, as a fraction of the map's maximum.
    against: a classifier to compare with, if one was named.
    top: how many channels of a decomposition are decomposed again.
    regions: labels of everything, if some were named.
    compat: "official" where a published script is followed, which sees ten crops of every photograph.
    advance: is told how many photographs are done.
    pictured: some of the cases that a study went through, for a picture.
    """

    classifier: Classifier
    classes: tuple[str, ...]
    samples: Sequence[Sample]
    methods: Sequence[str]
    layers: Any
    threshold: float
    against: Classifier | None
    top: int
    regions: Regions | None
    compat: Compat
    advance: Advance
    pictured: list[Case] = field(default_factory=list)

    def explainer(self, methods: Sequence[str] | None = None, layers: Any = None) -> Explainer:
        """Returns what makes maps, by the methods and of the layers asked for."""
        return Explainer(self.classifier, methods or self.methods, layers or self.layers)

    def cases(self) -> Iterator[Case]:
        """Yields the photographs with the maps of their true tags, and remembers some."""
        every = max(1, len(self.samples) // PICTURED)
        made = self.explainer()
        explainer = TenCrops(made) if self.compat == "official" else made
        for number, case in enumerate(cases_of(explainer, self.samples, self.advance)):
            if number % every == every // 2 and len(self.pictured) < PICTURED:
                self.pictured.append(case)
            yield case

    def examples(self) -> Iterator[Example]:
        """Yields the photographs as the classifier sees them."""
        return examples(self.classifier, self.samples, self.advance)

    def hierarchy(self) -> Hierarchy:
        """Returns what decomposes decisions along the layers."""
        return Hierarchy(self.classifier.model, self.layers, top=self.top)
