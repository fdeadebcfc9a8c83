"""The table of what makes maps from any classifier. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tagseg.errors import BadInput, nearest


@dataclass(frozen=True)
class Attribution:
    """One way from a classifier to maps.

    weight: what weighs a channel, for tables.
    source: the paper.
    layered: whether it makes a map of every layer.
    cheap: whether it shares a backward pass with others, so that pictures show it always.
    """

    weight: str
    source: str
    layered: bool = True
    cheap: bool = False


ATTRIBUTIONS = {
    "cam": Attribution("the linear layer's own", "Zhou et al., CVPR 2016", layered=False),
    "own": Attribution("(the maps that a run itself uses, of its own method)", "", layered=False),
    "gradcam": Attribution("mean gradient", "Selvaraju et al., ICCV 2017", cheap=True),
    "gradcam++": Attribution("positive gradients, by their share", "Chattopadhay et al., WACV 2018", cheap=True),
    "layercam": Attribution("the positive gradient at every position", "Jiang et al., TIP 2021", cheap=True),
    "layercam-normal": Attribution("the gradient at every position", "Jiang et al., TIP 2021"),
    "normgrad": Attribution("size of activation times size of gradient", "Rebuffi et al., CVPR 2020", cheap=True),
    "scorecam": Attribution("score of the image seen through the channel alone", "Wang et al., CVPR-W 2020"),
    "guided-backprop": Attribution("(pixels)", "Springenberg et al., ICLR-W 2015", layered=False),
}


def check_attributions(names: Iterable[str]) -> None:
    """Refuses names of attributions that do not exist.

    Raises:
        BadInput: with the nearest name, and all there are.
    """
    known = list(ATTRIBUTIONS)
    for name in names:
        if name not in ATTRIBUTIONS:
            hint = nearest(name, known) or "."
            raise BadInput(f"method '{name}' does not exist{hint} Known: {', '.join(known)}.")
