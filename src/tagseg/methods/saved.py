"""A trained classifier as a thing: a folder of `classifier.safetensors` and `classifier.json`, which open as they are.

What `classifier.json` holds is data: nothing in it is executed, and a method of somebody's own is opened only if its
file was named by the person who opens it (see `tagseg.methods.table.use_method`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from tagseg.errors import BadInput, brief
from tagseg.files import RUN_MARKER, file_digest, read_json, write_aside, write_json
from tagseg.methods.base import Method
from tagseg.methods.table import load_method, method_digest, method_file, method_names
from tagseg.networks.weights import take_over
from tagseg.settings import parse_saved

FORMAT = 1
DESCRIPTION, WEIGHTS = "classifier.json", "classifier.safetensors"


class ClassifierDescription(BaseModel):
    """What `classifier.json` says.

    method: its name.
    file, program: of a method of somebody's own, the name of its file, and a digest of what it said.
    teacher: of a second network, a digest of the weights of the first.
    role: whether it is the method's network, or the second one, which learnt the cumulative maps.
    backbone: as `tagseg.networks.backbone.Backbone` takes it.
    classes: the C class names.
    settings: those of the training.
    """

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    task: Literal["classification"] = "classification"
    method: str
    file: str | None = None
    program: str | None = None
    teacher: str | None = None
    role: Literal["first", "successor"] = "first"
    backbone: str
    classes: tuple[str, ...]
    settings: dict[str, Any]


def save_classifier(
    network: Method, folder: Path, *, method: str, role: Literal["first", "successor"], teacher: str | None = None
) -> None:
    """Writes `classifier.safetensors`, then `classifier.json`; each whole or not at all."""
    with write_aside(folder / WEIGHTS) as aside:
        save_file({k: v.contiguous().cpu() for k, v in network.state_dict().items()}, aside)
    file = method_file(method)
    described = ClassifierDescription(
        method=method,
        file=None if file is None else file.name,
        program=method_digest(method),
        teacher=teacher,
        role=role,
        backbone=network.backbone.name,
        classes=network.classes,
        settings=network.settings.model_dump(mode="json"),
    )
    write_json(folder / DESCRIPTION, described.model_dump(mode="json"))


def is_saved(folder: Path) -> bool:
    """Returns whether there is a trained classifier in a folder."""
    return (folder / DESCRIPTION).is_file()


def load_networks(run: Path) -> tuple[Method, Method | None]:
    """Opens the trained networks of a run: its classifier, and the second one if the run's class maps are its maps.

    Raises:
        BadInput: as `load_saved`.
    """
    try:
        counts = read_json(run / RUN_MARKER)["network"] == "integral"
    except (OSError, ValueError, KeyError, TypeError):
        counts = True
    first, second = run / "train", run / "integral"
    if not (counts and is_saved(second)):
        return load_saved(first), None
    classifier = load_saved(first)
    same = _described(second).teacher == file_digest(first / WEIGHTS)  # else the first one was trained again since
    return classifier, load_saved(second) if same else None


def load_saved(folder: Path) -> Method:
    """Opens a trained classifier; nothing is unpickled and nothing is downloaded.

    Raises:
        BadInput: there is none, its files are damaged or do not belong together, or its method is not known here.
    """
    path, described = folder / DESCRIPTION, _described(folder)
    if described.file is not None and described.method not in method_names():
        raise BadInput(
            f"{path}: its method is not one of tagseg's but was defined in a file {described.file}; name that file "
            f"before the command: tagseg --use {described.file} ... (or tagseg.use_method in Python)."
        )
    if described.program != method_digest(described.method):
        raise BadInput(
            f"{path}: the file of its method, {described.file}, is not as it was when this was trained; name the one "
            "that it was trained by, or train again."
        )
    kind: Any = load_method(described.method)
    if described.role == "successor":
        kind = kind.successor
    if kind is None:
        raise BadInput(f"{path}: the method '{described.method}' has no second network; train again.")
    settings = parse_saved(kind.Settings, described.settings, str(path))
    try:
        network = kind(described.backbone, "random", described.classes, settings, 1)
        network.load_state_dict(load_file(folder / WEIGHTS))
    except (ValueError, KeyError, TypeError, RuntimeError, OSError, SafetensorError) as error:
        raise BadInput(
            f"{folder}: the classifier's files are damaged or do not belong together ({brief(error)})."
        ) from error
    return network


def start_from(network: Method, run: Path) -> list[str]:
    """Gives a new classifier what the classifier of an earlier run has learnt beside its pretrained network.

    Returns:
        the names of the classes that both know.

    Raises:
        BadInput: the run has no classifier that can be read.
    """
    before = _described(run / "train").classes
    try:
        state = load_file(run / "train" / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise BadInput(f"{run / 'train' / WEIGHTS}: these weights cannot be read ({brief(error)}).") from error
    heads = {key: value for key, value in state.items() if not key.startswith("backbone.network.")}
    return take_over(network, heads, before, network.classes)


def _described(folder: Path) -> ClassifierDescription:
    """What the description in a folder says, if there is one of this format."""
    path = folder / DESCRIPTION
    if not path.is_file():
        raise BadInput(f"{folder}: there is no trained classifier here (no {DESCRIPTION}); make one with 'tagseg fit'.")
    try:
        described = ClassifierDescription.model_validate(read_json(path))
    except (OSError, ValueError) as error:  # pydantic's errors are ValueErrors
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise BadInput(f"{path}: this description of a classifier is damaged ({reason}); train it again.") from error
    if described.format != FORMAT:
        raise BadInput(f"{path}: format {described.format} is not known; update tagseg.")
    return described
