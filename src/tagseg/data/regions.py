"""What lies where beside the classes of a data set: PASCAL-Context (Mottaghi et al., CVPR 2014), which names every
region of VOC 2010's photographs with one of 459 labels.

CONTEXT/labels.txt        lines "1: accordion"
CONTEXT/trainval/NAME.mat  `LabelMap (H, W)`, 0 where nothing is said; the files may lie in CONTEXT itself too
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tagseg.data.tables import read_text
from tagseg.errors import BadInput, brief

UNSAID = 0
ALSO = {"diningtable": "table"}  # names of VOC that are others there


@dataclass(frozen=True)
class Regions:
    """Labelled regions of photographs.

    names: by label, 0 for what nothing is said of.
    folder: where the files lie.
    """

    names: tuple[str, ...]
    folder: Path

    def __contains__(self, name: str) -> bool:
        return (self.folder / f"{name}.mat").is_file()

    def read(self, name: str) -> np.ndarray:
        """Returns the labels of a photograph, `(H, W)` int32.

        Raises:
            BadInput: its file cannot be read, or holds no labels that are known.
        """
        from scipy.io import loadmat

        path = self.folder / f"{name}.mat"
        try:
            labels = np.asarray(loadmat(path)["LabelMap"]).astype(np.int32)
        except Exception as error:  # whatever a damaged file makes of the reader
            raise BadInput(f"{path}: the labels cannot be read ({brief(error)}); fetch the file again.") from error
        if labels.ndim != 2 or labels.min(initial=0) < 0 or labels.max(initial=0) >= len(self.names):
            raise BadInput(f"{path}: it has labels that labels.txt does not name; take both from one release.")
        return labels

    def label_of(self, class_name: str) -> int:
        """Returns the label of a class of VOC, or -1 if nothing is called so."""
        plain = [_plain(name) for name in self.names]
        for name in (_plain(class_name), ALSO.get(_plain(class_name), "")):
            if name and name in plain[1:]:
                return plain.index(name)
        return -1


def _plain(name: str) -> str:
    """A name as it is compared: without case, spaces, hyphens and underscores."""
    return re.sub(r"[\s_-]", "", name).casefold()


def read_regions(folder: Path) -> Regions:
    """Reads the names of PASCAL-Context's labels, and where its files lie.

    Raises:
        BadInput: the folder has no `labels.txt` with lines "1: accordion", or no `.mat` files.
    """
    listed = folder / "labels.txt"
    if not listed.is_file():
        raise BadInput(f"{folder}: this is not PASCAL-Context, whose labels.txt is missing; give its folder.")
    found = dict(re.findall(r"^\s*(\d+)\s*:\s*(.+?)\s*$", read_text(listed), flags=re.MULTILINE))
    numbers = {int(number): name for number, name in found.items()}
    if not numbers or min(numbers) < 1:
        raise BadInput(f"{listed}: there are no labels; it needs lines such as '1: accordion'.")
    place = next((p for p in (folder / "trainval", folder) if any(p.glob("*.mat"))), None)
    if place is None:
        raise BadInput(f"{folder}: neither there nor in trainval/ is a .mat file; unpack PASCAL-Context's.")
    return Regions(tuple(numbers.get(n, "") for n in range(max(numbers) + 1)), place)
