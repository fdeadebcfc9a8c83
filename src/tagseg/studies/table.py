"""The table of studies: name -> what it measures, and the function that does it. Torch is imported when one is run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tagseg.explaining.table import ATTRIBUTIONS
from tagseg.studies.tables import Findings

if TYPE_CHECKING:
    from tagseg.studies.material import Material


@dataclass(frozen=True)
class Study:
    """A study in the table.

    about: what it measures, in half a sentence.
    run: does it.
    few: on how many photographs, if nothing else is said; None: all of the split.
    any_classes: whether the classifier may have other classes than the data set.
    published: whether it can go as a published script does, too (`compat="official"`).
    """

    about: str
    run: Callable[[Material], Findings]
    few: int | None = None
    any_classes: bool = False
    published: bool = False


def _boxes(m: Material) -> Findings:
    from tagseg.studies.against_truth import boxes, official_boxes

    return Findings(official_boxes(m.cases(), m.threshold) if m.compat == "official" else boxes(m.cases(), m.threshold))


def _segmentation(m: Material) -> Findings:
    from tagseg.studies.against_truth import segmentation

    return Findings(segmentation(m.cases(), m.classes))


def _defects(m: Material) -> Findings:
    from tagseg.studies.against_truth import defects, frame_rate

    tables = defects(m.cases(), m.classes)
    layered = [name for name in m.methods if ATTRIBUTIONS[name].layered]
    layers = [name for case in m.pictured[:1] for name in case.maps[layered[0]].layers] if layered else []
    tables.append(frame_rate(lambda method, some: m.explainer([method], some), m.methods, layers, m.samples))
    return Findings(tables)


def _superpixels(m: Material) -> Findings:
    from tagseg.studies.against_truth import superpixel_masks

    return Findings(superpixel_masks(m.cases(), m.classes))


def _occlusion(m: Material) -> Findings:
    from tagseg.studies.against_model import occlusion

    return Findings(occlusion(m.cases(), m.classifier))


def _curves(m: Material) -> Findings:
    from tagseg.studies.against_model import curves

    return Findings(curves(m.cases(), m.classifier))


def _agreement(m: Material) -> Findings:
    from tagseg.studies.decomposed import agreement

    return agreement(m.examples(), m.hierarchy())


def _contributions(m: Material) -> Findings:
    from tagseg.studies.decomposed import contributions

    return contributions(m.examples(), m.hierarchy())


def _discriminativeness(m: Material) -> Findings:
    from tagseg.studies.decomposed import discriminativeness

    return discriminativeness(m.examples(), m.hierarchy(), m.classifier.classes)


def _context(m: Material) -> Findings:
    from tagseg.studies.decomposed import context

    return context(m.examples(), m.hierarchy(), m.classifier.classes, m.regions)


def _sanity(m: Material) -> Findings:
    from tagseg.studies.altered import sanity

    return sanity(m.examples(), m.classifier.model, m.layers, None if m.against is None else m.against.model)


def _surrogate(m: Material) -> Findings:
    from tagseg.studies.altered import surrogate

    return surrogate(m.examples(), m.hierarchy())


def _removal(m: Material) -> Findings:
    from tagseg.studies.altered import removal

    return removal(m.examples(), m.hierarchy())


def _adversarial(m: Material) -> Findings:
    from tagseg.studies.altered import adversarial

    return adversarial(m.examples(), m.hierarchy(), m.classifier)


STUDIES = {
    "boxes": Study("boxes of maps against true ones (loc1, loc5, gt-known, MaxBoxAccV2)", _boxes, published=True),
    "segmentation": Study("maps as masks (mIoU, PxAP, pointing game)", _segmentation),
    "defects": Study("IoU of every photograph, for tiny objects; and the frame rate", _defects),
    "superpixels": Study("pseudo-masks of one label for every superpixel", _superpixels),
    "occlusion": Study("what is left of a class when the marked pixels are hidden", _occlusion),
    "curves": Study("insertion and deletion of the marked pixels", _curves),
    "agreement": Study("contributions of channels against their ablation", _agreement, few=20, any_classes=True),
    "contributions": Study("how few channels carry a decision (the long tail)", _contributions, any_classes=True),
    "discriminativeness": Study("which channels tell classes apart", _discriminativeness),
    "context": Study("what lies under a channel", _context),
    "sanity": Study("attributions after weights or labels are randomised", _sanity, few=10, any_classes=True),
    "surrogate": Study("the network with its strongest channels only", _surrogate, few=60),
    "removal": Study("what the score loses without the strongest channels", _removal, few=20),
    "adversarial": Study("which channels an adversarial image changes", _adversarial, any_classes=True),
}
