"""The table of what makes maps from any classifier. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tagseg.errors import BadInput, nearest


@dataclass(frozen=True)
class Attribution:
    """One way from a classifier to maps.

    source: the paper.
    layered: whether it makes a map of every layer.
    """

    source: str
    layered: bool = True


ATTRIBUTIONS = {
    "cam": Attribution("Zhou et al., CVPR 2016", layered=False),
    "own": Attribution("", layered=False),
    "gradcam": Attribution("Selvaraju et al., ICCV 2017"),
    "gradcam++": Attribution("Chattopadhay et al., WACV 2018"),
    "layercam": Attribution("Jiang et al., TIP 2021"),
    "layercam-normal": Attribution("Jiang et al., TIP 2021"),
    "hirescam": Attribution("Draelos and Carin, 2020"),
    "xgradcam": Attribution("Fu et al., BMVC 2020"),
    "eigencam": Attribution("Muhammad and Yeasin, IJCNN 2020"),
    "normgrad": Attribution("Rebuffi et al., CVPR 2020"),
    "scorecam": Attribution("Wang et al., CVPR-W 2020"),
    "ablationcam": Attribution("Desai and Ramaswamy, WACV 2020"),
    "cmwp": Attribution("Zhang et al., IJCV 2018"),
    "rollout": Attribution("Abnar and Zuidema, ACL 2020", layered=False),
    "guided-backprop": Attribution("Springenberg et al., ICLR-W 2015", layered=False),
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
