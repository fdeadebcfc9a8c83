"""All settings of a run: defaults, then a recipe, then what the command line sets."""

from __future__ import annotations

import importlib.resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt, SerializeAsAny

from tagseg.errors import BadInput, nearest
from tagseg.masks.crf import CRFS
from tagseg.masks.superpixels import SuperpixelKind
from tagseg.methods.base import TrainSettings, load_method, method_names
from tagseg.methods.refinements.irn import IRNSettings
from tagseg.methods.refinements.psa import PSASettings
from tagseg.segmentation.training import SegmentSettings
from tagseg.settings import Settings, SidePixels, parse

_RECIPES = importlib.resources.files("tagseg") / "recipes"


class DataSettings(Settings):
    """Of reading the data set."""

    tags: Literal["xml", "masks"] = "xml"  # where VOC tags come from
    # where saliency maps come from, if anything uses them: "folder" (that of the data set), "built-in" (made without
    # any network), "auto" (the folder where it has a map, else built in), another folder, or the file of a network
    saliency: str = "auto"


class MineSettings(Settings):
    """Of turning the trained classifier into class maps."""

    side: int = Field(default=321, ge=32)  # long side of the photograph at scale 1, pixels
    scales: tuple[PositiveFloat, ...] = Field(default=(0.75, 1.0, 1.5), min_length=1)
    flip: bool = True
    # where the maps of all scales meet: "grid", that of the largest scale, bilinear in the grid's geometry, or
    # "photograph", its every pixel, bicubic without regard to geometry (L2G's published code; 40 times the disk space)
    fusion: Literal["grid", "photograph"] = "grid"
    rectify: bool = False  # every scale's maps before they are averaged, as PSA, IRN and KTSE do; else only the mean
    window: SidePixels | None = None  # look through a sliding window of this side, pixels; None: at all of it at once
    window_stride: PositiveInt = 64  # pixels, rounded to whole cells; at most the window


LEARNT = ("psa", "irn")  # refinements that are trained, and come first in a chain
_REFINEMENTS = (*LEARNT, "par", "pamr", "crf", "superpixels")


def _chain(refine: str) -> str:
    for number, name in enumerate(refine.split("+")):
        if refine == "none":
            break
        if name not in _REFINEMENTS:
            hint = nearest(name, list(_REFINEMENTS)) or "."
            raise ValueError(f"there is no refinement '{name}'{hint} Known: none, {', '.join(_REFINEMENTS)}")
        if name in LEARNT and number > 0:
            raise ValueError(f"'{name}' must come first in a chain, for it works on class maps")
    return refine


def _known_crf(name: str) -> str:
    if name not in CRFS:
        raise ValueError(f"there is no such CRF{nearest(name, list(CRFS)) or '.'} Known: {', '.join(CRFS)}")
    return name


class SuperpixelSettings(Settings):
    """Of superpixels as a refinement."""

    kind: SuperpixelKind = "slic"
    count: int = Field(default=200, ge=2)


class MaskSettings(Settings):
    """Of turning class maps into pseudo-masks."""

    background: Literal["auto"] | Annotated[float, Field(ge=0, le=1)] = (
        "auto"  # the score in 0..1 that a map must exceed
    )
    saliency: bool = False  # score the background by what is not salient, and ignore where maps and saliency conflict
    refine: Annotated[str, AfterValidator(_chain)] = "par"  # one refinement, or several with + between them, or none
    crf: Annotated[str, AfterValidator(_known_crf)] = "deeplab"  # which published parameters
    superpixels: SuperpixelSettings = SuperpixelSettings()
    psa: PSASettings = PSASettings()
    irn: IRNSettings = IRNSettings()

    @property
    def learnt(self) -> str | None:
        """The trained refinement that the chain begins with, if it does."""
        first = self.refine.split("+")[0]
        return first if first in LEARNT else None

    @property
    def steps(self) -> tuple[str, ...]:
        """The refinements that work on a photograph and its scores, in order."""
        return tuple(name for name in self.refine.split("+") if name != "none" and name not in LEARNT)


class FitSettings(Settings):
    """Everything that decides what a run computes."""

    method: str = "cam"
    backbone: str = "resnet50"
    weights: str = "pretrained"  # "pretrained" (timm's), "random", or a file
    seed: int = Field(default=0, ge=0)
    processes: PositiveInt = 1  # that train together, one GPU each; the result is the same but for rounding
    data: DataSettings = DataSettings()
    train: SerializeAsAny[TrainSettings]
    mine: MineSettings = MineSettings()
    masks: MaskSettings = MaskSettings()
    segment: SegmentSettings = SegmentSettings()


def resolve(recipe: str = "cam", overrides: dict[str, Any] | None = None) -> FitSettings:
    """Settings of a recipe with overrides.

    Args:
        recipe: `METHOD` (its defaults), `DATASET/METHOD` (what was published for that data set), or a YAML file.
        overrides: dotted keys to values, e.g. `{"train.epochs": 4}`.

    Raises:
        BadInput: there is no such recipe, or it names an unknown setting.
    """
    values = _read_recipe(recipe)
    for key, value in (overrides or {}).items():
        place = values
        *parents, last = key.split(".")
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise BadInput(f"setting '{key}': '{parent}' is a single value and has no parts.")
        place[last] = value
    method = load_method(str(values.get("method", "cam")))
    train = parse(method.Settings, values.pop("train", None) or {}, f"recipe '{recipe}'", "train.")
    # the rest is checked with a stand-in for the method's own settings, which are done
    rest = parse(_WithoutTrain, values, f"recipe '{recipe}'")
    return FitSettings.model_construct(**{**dict(rest), "train": train})


class _WithoutTrain(FitSettings):
    train: Any = None


def saliency_settings(recipe: str, source: str) -> dict[str, Any]:
    """The settings by which the recipe's method uses saliency from `source` (as `data.saliency`)."""
    method = load_method(str(_read_recipe(recipe).get("method", "cam")))
    if "saliency" in method.Settings.model_fields:
        return {"data.saliency": source, "train.saliency": True}
    if getattr(method, "uses_saliency", False):
        return {"data.saliency": source}
    return {"data.saliency": source, "masks.saliency": True}


def _read_recipe(recipe: str) -> dict[str, Any]:
    if recipe in method_names():
        return {"method": recipe}
    path = Path(recipe)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise BadInput(f"{path}: there is no such recipe file.")
        text = path.read_text(encoding="utf-8")
    else:
        resource = _RECIPES / f"{recipe}.yaml"
        if not resource.is_file():
            known = recipe_names()
            raise BadInput(
                f"recipe '{recipe}' does not exist{nearest(recipe, known) or '.'} Known: {', '.join(known)}."
            )
        text = resource.read_text(encoding="utf-8")
    try:
        values = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise BadInput(f"{recipe}: this is not valid YAML ({error}).") from error
    if not isinstance(values, dict):
        raise BadInput(f"{recipe}: a recipe is a table of settings, this is a {type(values).__name__}.")
    return values


def recipe_names() -> list[str]:
    """Methods, then the recipes that come with tagseg."""
    files = (
        f"{folder.name}/{f.name[:-5]}"
        for folder in _RECIPES.iterdir()
        if folder.is_dir()
        for f in folder.iterdir()
        if f.name.endswith(".yaml")
    )
    return [*method_names(), *sorted(files)]


def parse_assignments(pairs: list[str]) -> dict[str, Any]:
    """`["train.epochs=4"]` -> `{"train.epochs": 4}`; values are YAML."""
    values = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise BadInput(f"--set {pair}: write it as key=value, for example --set train.epochs=4.")
        try:
            values[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise BadInput(f"--set {pair}: the value is not valid YAML ({error}).") from error
    return values
