"""What the web explorer answers, without any web: pictures, scores and channels for a place in a tree of evidence."""

from __future__ import annotations

import io
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import cv2
import numpy as np

from tagseg.attribution.gap import Decision, Recording
from tagseg.attribution.hierarchy import Hierarchy, Node, trace, trace_nodes
from tagseg.data.images import IMAGE_SUFFIXES, image_size, read_image
from tagseg.errors import BadInput
from tagseg.explaining.classifiers import Classifier, load_classifier
from tagseg.explaining.decompose import guided_patch, heat, node_pictures, save_tree, strip
from tagseg.explaining.excitation import Excitations, exciting_patches, find_excitations
from tagseg.report.pictures import overlay_map, thumbnail

MAX_BYTES = 20 << 20  # of an uploaded file
MAX_PIXELS = 50_000_000  # of a picture, by its header, before anything is decoded
SHOWN = 900  # pixels of the long side; larger pictures are shrunk once
CLASSES, CHANNELS = 6, 6  # how many are offered at a time
_REMEMBERED = 6  # pictures with their recorded passes, some 150 MB each for a MobileNetV2 of 224 pixels

Place = tuple[int, int, int, int]  # level, channel, row and column of its peak
Found = TypeVar("Found")


@dataclass(frozen=True)
class View:
    """The place where someone is in the explorer.

    It is a model, a picture with hidden regions, a class, and channels one below the other. `hidden` are boxes in
    shares of width and height, `(x0, y0, x1, y1)`.
    """

    model: str
    picture: Path
    hidden: tuple[tuple[float, float, float, float], ...] = ()
    number: int | None = None
    path: tuple[Place, ...] = ()


@dataclass(frozen=True)
class Option:
    """Something to click on: where it leads, its picture and its caption."""

    view: View
    picture: np.ndarray
    caption: str


@dataclass
class _Opened:
    photo: np.ndarray
    recording: Recording
    guided: Recording
    probabilities: np.ndarray
    children: dict[tuple[int, tuple[Place, ...]], list[Node]] = field(default_factory=dict)  # by class and path


@dataclass
class _Model:
    classifier: Classifier
    hierarchy: Hierarchy
    excitations: Excitations | None = None


class Explorer:
    """A source of answers about several models and any pictures, which remembers what was asked lately.

    Args:
        models: name to a model as `load_classifier` takes it, with its weights.
        folder: pictures to choose from; None for uploads only.
        patches: photographs whose parts that excite a channel most are shown; None for none.
        side: see `load_classifier`.
    """

    def __init__(
        self,
        models: Mapping[str, tuple[str, str]],
        folder: Path | None = None,
        patches: Sequence[Path] = (),
        side: int | None = None,
    ) -> None:
        if not models:
            raise BadInput("no model to explore; name one, for example timm:mobilenetv2_100.")
        self.models, self.folder, self.patches, self.side = dict(models), folder, list(patches), side
        self._loaded: dict[str, _Model] = {}
        self._opened: OrderedDict[tuple[str, Path, tuple], _Opened] = OrderedDict()
        # one question at a time, since each takes all cores, and all in one thread, whose helpers stay warm
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="explorer")

    def pictures(self) -> list[str]:
        """Returns the names of the pictures below the folder."""
        if self.folder is None:
            return []
        found = (p for p in sorted(self.folder.rglob("*")) if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
        return [p.relative_to(self.folder).as_posix() for p in found]

    def picture(self, name: str) -> Path:
        """Returns the file of a picture by its name, one of `pictures`.

        Raises:
            BadInput: the name leads out of the folder.
        """
        if self.folder is None or name not in self.pictures():
            raise BadInput(f"picture '{name}' is not in the folder; choose one of the list.")
        return self.folder / name

    def class_names(self, model: str) -> tuple[str, ...]:
        """Returns the names of a model's classes."""
        return self._ask(lambda: self._model(model).classifier.classes)

    def classes(self, view: View) -> list[Option]:
        """Returns the highest scores, each with the map of its evidence in the deepest layer (Grad-CAM)."""
        return self._ask(lambda: self._classes(view))

    def picture_of(self, view: View) -> np.ndarray:
        """Returns the picture with the evidence for where someone is; `(H, W, 3)` uint8."""
        return self._ask(lambda: self._picture_of(view))

    def channels(self, view: View) -> list[Option]:
        """Returns the strongest channels behind the class, or behind the last channel of the path.

        There are none at the first stage.
        """
        return self._ask(lambda: self._channels(view))

    def layer_below(self, view: View) -> str | None:
        """Returns the name of the layer whose channels `channels` shows."""

        def found() -> str | None:
            level = self._decision(view).level - 1
            return self._open(view).recording.layers[level].name if level >= 0 else None

        return self._ask(found)

    def details(self, view: View) -> list[tuple[np.ndarray, str]]:
        """Returns pictures of the last channel of the path.

        They are its patch, the guided gradients there, and what excites it elsewhere.
        """
        return self._ask(lambda: self._details(view))

    def trail(self, view: View) -> list[str]:
        """Returns the class and the channels down to where someone is, in words."""
        return self._ask(lambda: self._trail(view))

    def scores(self, view: View) -> list[tuple[str, float, float]]:
        """Returns class, probability of the whole picture, and probability with the hidden regions.

        The classes are those highest in either.
        """
        return self._ask(lambda: self._scores(view))

    def hide(self, view: View, box: tuple[float, float, float, float] | None = None) -> View:
        """Hides a box (in shares of width and height), or what the last channel of the path makes use of.

        The class stays, the path begins anew. The region gets the mean colour of the network's training images.
        """

        def found() -> View:
            chosen = box
            if chosen is None:
                if not view.path:
                    raise BadInput("choose a channel first: what it looks at is then hidden.")
                seen = self._node(view).box
                assert seen is not None
                chosen = corners(seen[:2], seen[2:], self._open(view).recording.size)
            left, top, right, bottom = (min(max(value, 0.0), 1.0) for value in chosen)
            if right - left < 0.005 or bottom - top < 0.005:
                raise BadInput("that region is too small to hide; click two opposite corners.")
            number = self._number(view)
            return replace(view, hidden=(*view.hidden, (left, top, right, bottom)), path=(), number=number)

        return self._ask(found)

    def tree(self, view: View, top: int = 3, levels: int | None = None) -> bytes:
        """Returns a ZIP file with the tree of the class: `pyramid.png`, `tree.json`, `nodes/`."""

        def found() -> bytes:
            opened, model = self._open(view), self._model(view.model)
            hierarchy = Hierarchy(model.classifier.model, top=top, levels=levels)
            number = self._number(view)
            tree = hierarchy.trees(opened.recording, [number])[0][0]
            trace(opened.guided, [(0, tree)])
            facts = {"model": view.model, "photograph": view.picture.name, "hidden": view.hidden}
            with TemporaryDirectory() as folder:
                save_tree(tree, opened.photo, model.classifier.classes[number], Path(folder), facts)
                packed = io.BytesIO()
                with zipfile.ZipFile(packed, "w") as archive:
                    for path in sorted(Path(folder).rglob("*")):
                        if path.is_file():
                            archive.write(path, path.relative_to(folder).as_posix())
            return packed.getvalue()

        return self._ask(found)

    def _ask(self, answer: Callable[[], Found]) -> Found:
        return self._worker.submit(answer).result()

    def _model(self, name: str) -> _Model:
        if name not in self.models:
            raise BadInput(f"model '{name}' is not among those that the explorer was started with.")
        if name not in self._loaded:
            source, weights = self.models[name]
            classifier = load_classifier(source, weights, self.side)
            model = _Model(classifier, Hierarchy(classifier.model, top=CHANNELS))
            if self.patches:
                model.excitations = find_excitations(classifier, "stages", self.patches)
            self._loaded[name] = model
        return self._loaded[name]

    def _open(self, view: View) -> _Opened:
        key = (view.model, view.picture, view.hidden)
        if key not in self._opened:
            model = self._model(view.model)
            photo = read_picture(view.picture)
            mean = tuple(round(255 * value) for value in model.classifier.mean)
            for x0, y0, x1, y1 in view.hidden:
                (height, width) = photo.shape[:2]
                photo[round(y0 * height) : round(y1 * height), round(x0 * width) : round(x1 * width)] = mean
            images = model.classifier.images([photo])
            recorder = model.hierarchy.recorder
            recording, guided = recorder(images), recorder(images, guided=True)
            probabilities = model.classifier.probabilities(recording.scores.detach())[0].cpu().numpy()
            self._opened[key] = _Opened(photo, recording, guided, probabilities)
            while len(self._opened) > _REMEMBERED:
                self._opened.popitem(last=False)
        self._opened.move_to_end(key)
        return self._opened[key]

    def _number(self, view: View) -> int:
        opened = self._open(view)
        return int(opened.probabilities.argmax()) if view.number is None else view.number

    def _decision(self, view: View) -> Decision:
        if view.path:
            return Decision(*view.path[-1])
        return self._open(view).recording.score(0, self._number(view))

    def _classes(self, view: View) -> list[Option]:
        opened, classifier = self._open(view), self._model(view.model).classifier
        best = np.argsort(-opened.probabilities, kind="stable")[:CLASSES].tolist()
        if view.number is not None and view.number not in best:
            best = [view.number, *best[:-1]]
        small = thumbnail(opened.photo, 320)
        parts = opened.recording.parts([opened.recording.score(0, number) for number in best])
        return [
            Option(
                replace(view, number=number, path=()),
                overlay_map(small, heat(p.maps.sum(dim=0).cpu().numpy(), small.shape[:2])),
                f"{classifier.classes[number]}  {opened.probabilities[number]:.3f}",
            )
            for number, p in zip(best, parts, strict=True)
        ]

    def _picture_of(self, view: View) -> np.ndarray:
        opened = self._open(view)
        if view.path:
            return node_pictures(opened.photo, self._node(view), opened.recording.size, SHOWN)["map"]
        parts = opened.recording.parts([self._decision(view)])[0]
        return overlay_map(opened.photo, heat(parts.maps.sum(dim=0).cpu().numpy(), opened.photo.shape[:2]))

    def _channels(self, view: View) -> list[Option]:
        opened = self._open(view)
        return [
            Option(
                replace(view, number=self._number(view), path=(*view.path, node.decision)),
                _both(opened.photo, node, opened.recording.size),
                f"#{node.channel}  {100 * node.share:.1f} %",
            )
            for node in self._children(view)
        ]

    def _children(self, view: View) -> list[Node]:
        opened, hierarchy = self._open(view), self._model(view.model).hierarchy
        place = self._number(view), view.path
        if place not in opened.children:
            decision = self._decision(view)
            nodes: list[Node] = []
            if decision.level > 0:
                nodes = hierarchy.channels(opened.recording, opened.recording.parts([decision])[0])
                trace_nodes(opened.guided, {Decision(*node.decision): [node] for node in nodes})
            opened.children[place] = nodes
        return opened.children[place]

    def _node(self, view: View) -> Node:
        """The last channel of the path, as one of those behind the decision above it."""
        for node in self._children(replace(view, path=view.path[:-1])):
            if node.decision == view.path[-1]:
                return node
        raise BadInput("that channel is not among those that were shown; go back and choose again.")

    def _details(self, view: View) -> list[tuple[np.ndarray, str]]:
        if not view.path:
            return []
        opened, model = self._open(view), self._model(view.model)
        node = self._node(view)
        pictures = node_pictures(opened.photo, node, opened.recording.size)
        guided = guided_patch(node, pictures["patch"])
        found = [(pictures["patch"], "what its peak looks at"), (guided, "guided gradients there")]
        if model.excitations is not None:
            channel = (node.level, node.channel)
            patches = exciting_patches(model.classifier, model.hierarchy.recorder, model.excitations, [channel])
            if patches[channel]:
                found.append((strip(patches[channel]), "what excites it most elsewhere"))
        return found

    def _trail(self, view: View) -> list[str]:
        opened, model = self._open(view), self._model(view.model)
        number = self._number(view)
        words = [f"{model.classifier.classes[number]} ({opened.probabilities[number]:.3f})"]
        for count in range(1, len(view.path) + 1):
            node = self._node(replace(view, path=view.path[:count]))
            words.append(f"{node.layer} #{node.channel} ({100 * node.share:.1f} %)")
        return words

    def _scores(self, view: View) -> list[tuple[str, float, float]]:
        classes = self._model(view.model).classifier.classes
        now, before = self._open(view).probabilities, self._open(replace(view, hidden=())).probabilities
        order = np.argsort(-np.maximum(now, before), kind="stable")[:CLASSES].tolist()
        number = self._number(view)
        shown = order if number in order else [number, *order[:-1]]
        return [(classes[n], float(before[n]), float(now[n])) for n in shown]


def read_picture(path: Path) -> np.ndarray:
    """Reads a picture as `(H, W, 3)` uint8, at most `SHOWN` pixels long.

    Raises:
        BadInput: the file is no picture, or it is larger than the explorer takes.
    """
    size = path.stat().st_size if path.is_file() else 0
    if size > MAX_BYTES:
        raise BadInput(f"{path.name}: the file has {size / 1e6:.0f} MB, more than {MAX_BYTES >> 20}; shrink it first.")
    try:
        image_size(path, limit=MAX_PIXELS)
        return thumbnail(read_image(path), SHOWN).copy()
    except BadInput as error:
        raise BadInput(str(error).replace(str(path), path.name)) from error  # no paths on the page


def _both(photo: np.ndarray, node: Node, size: tuple[int, int]) -> np.ndarray:
    """The channel's map over the picture, and beside it what its peak looks at."""
    pictures = node_pictures(photo, node, size)
    height = pictures["map"].shape[0]
    patch = pictures["patch"]
    width = max(1, round(patch.shape[1] * height / patch.shape[0]))
    if width > 2 * height:  # a long thin patch
        patch, width = patch[:, : round(2 * patch.shape[0])], 2 * height
    return np.concatenate([pictures["map"], cv2.resize(patch, (width, height))], axis=1)


def corners(
    first: tuple[int, int], second: tuple[int, int], size: tuple[int, ...]
) -> tuple[float, float, float, float]:
    """Returns a box in shares of width and height from two opposite corners.

    The corners are (x, y) in pixels of an image of `size` (H, W).
    """
    (xa, ya), (xb, yb) = first, second
    return min(xa, xb) / size[1], min(ya, yb) / size[0], max(xa, xb) / size[1], max(ya, yb) / size[0]
