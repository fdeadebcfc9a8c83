"""All settings of a run: defaults, then a recipe, then what the command line sets. Nothing here imports torch."""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    Field,
    PositiveFloat,
    SerializeAsAny,
    ValidationInfo,
    create_model,
    field_validator,
)

from tagseg.errors import BadInput, brief, nearest
from tagseg.masks.refinements import (
    NONE,
    FeatureRefinement,
    NamedRefinement,
    Refinement,
    TaughtRefinement,
    check_chain,
    learnt_names,
    refinements,
    sharpening_names,
    steps_of,
)
from tagseg.methods.table import find_method, load_method, method_names, method_settings
from tagseg.networks.settings import CacheSettings, EncoderSettings
from tagseg.segmentation.settings import PredictSettings, SegmentSettings
from tagseg.settings import Count, Settings, SidePixels, TrainSettings, parse

DEFAULT_RECIPE = "photos/cam"
_RECIPES = importlib.resources.files("tagseg") / "recipes"


class DataSettings(Settings):
    """Settings for reading the data set."""

    tags: Literal["xml", "masks"] = "xml"  # where VOC tags come from
    # where saliency maps come from, if anything uses them: "folder" (that of the data set), "built-in" (made without
    # any network), "auto" (the folder where it has a map, else built in), another folder, or the file of a network
    saliency: str = "auto"
    # whether the file of a network may be a program (torch.export, TorchScript), which is executed; an .onnx is data
    saliency_program: bool = False
    # masks to measure with in place of those of the data set, in any format of `tagseg export`; nothing learns them
    masks: str | None = None
    texts: str | None = None  # a file of text embeddings of the classes, where class maps come from words


class MineSettings(Settings):
    """Settings for mining class maps with the trained classifier."""

    side: int = Field(default=321, ge=32, le=16384)  # long side of the photograph at scale 1, pixels
    scales: tuple[PositiveFloat, ...] = Field(default=(0.75, 1.0, 1.5), min_length=1)
    flip: bool = True
    # where the maps of all scales meet: "grid", that of the largest scale, bilinear in the grid's geometry, or
    # "photograph", its every pixel, bicubic without regard to geometry (L2G's published code; 40 times the disk space)
    fusion: Literal["grid", "photograph"] = "grid"
    rectify: bool = False  # every scale's maps before they are averaged, as PSA, IRN and KTSE do; else only the mean
    # whose maps: the network's "own", or those of an attribution to layers of the network as a classifier of tags,
    # which are fused (LayerCAM, section III-C); cmwp is for convolutional networks
    attribution: Literal[
        "own", "gradcam", "gradcam++", "layercam", "layercam-normal", "normgrad", "xgradcam", "hirescam", "cmwp"
    ] = "own"
    layers: str | tuple[str, ...] = "stages"  # of an attribution: "stages", "last", or names
    scaling: Literal["tanh", "none", "sqrt", "tan"] = "tanh"  # of the maps of shallow layers before they are fused
    window: SidePixels | None = None  # see through a sliding window of this side, pixels; None: all of it at once
    window_stride: Count = 64  # pixels, rounded to whole cells; at most the window

    @field_validator("attribution")
    @classmethod
    def _alone(cls, name: str, given: ValidationInfo) -> str:
        if name != "own" and (given.data.get("fusion") != "grid" or given.data.get("rectify")):
            raise ValueError("it has a fusion of its own; leave mine.fusion and mine.rectify as they are")
        return name

    @field_validator("window")
    @classmethod
    def _own(cls, side: int | None, given: ValidationInfo) -> int | None:
        if side is not None and given.data.get("attribution") != "own":
            raise ValueError("an attribution sees photographs whole; leave it out")
        return side


class MaskChain(Settings):
    """Settings for making pseudo-masks of class maps, without those of single refinements."""

    background: Literal["auto"] | Annotated[float, Field(ge=0, le=1)] = (
        "auto"  # the score in 0..1 that a map must exceed
    )
    # share of the pixels of every label that stay, those whose score is furthest before the next one's; the others are
    # unknown (0.5 of IRN's masks in KTSE's published code)
    keep: float = Field(default=1.0, gt=0, le=1)
    saliency: bool = False  # score the background by what is not salient, and ignore where maps and saliency conflict
    refine: Annotated[str, AfterValidator(check_chain)] = "par"  # one refinement, or several with + between, or none

    @property
    def learnt(self) -> str | None:
        """Returns the name of the trained refinement that the chain begins with, if it does."""
        first = self.refine.split("+")[0]
        return first if first in learnt_names() else None

    @property
    def spreads(self) -> bool:
        """Returns whether the chain begins with a refinement that spreads class maps along features."""
        first = self.refine.split("+")[0]
        return isinstance(refinements().get(first), FeatureRefinement)

    @property
    def taught(self) -> str | None:
        """Returns the name of the refinement that learns from the masks made so far, if the chain has one."""
        return next((n for n in steps_of(self.refine) if isinstance(refinements()[n], TaughtRefinement)), None)

    @property
    def steps(self) -> tuple[Refinement | FeatureRefinement | NamedRefinement, ...]:
        """Returns the refinements that work on a photograph and its scores, in order."""
        found = (refinements()[name] for name in steps_of(self.refine))
        return tuple(r for r in found if isinstance(r, Refinement | FeatureRefinement | NamedRefinement))

    def names(self, *, after: bool) -> tuple[str, ...]:
        """Returns the names of the steps before the refinement that is taught, or of those after it."""
        names = steps_of(self.refine)
        cut = names.index(self.taught) if self.taught else len(names)
        return names[cut + 1 :] if after else names[:cut]

    def part(self, *, after: bool) -> MaskChain:
        """Returns the settings with the steps on pixels before the refinement that is taught, or those after it."""
        steps = (
            name for name in self.names(after=after) if isinstance(refinements()[name], Refinement | NamedRefinement)
        )
        return self.model_copy(update={"refine": "+".join(steps) or NONE})

    def of(self, name: str) -> Any:
        """Returns the settings of one refinement, None if it has none."""
        return getattr(self, name, None)


if TYPE_CHECKING:
    MaskSettings = MaskChain
else:  # every refinement that has settings adds them under its name
    MaskSettings = create_model(
        "MaskSettings",
        __base__=MaskChain,
        __doc__="Settings for making pseudo-masks of class maps.",
        **{n: (r.settings, r.default) for n, r in refinements().items() if r.settings is not None},
    )


def sharpening(refine: str, crf: str) -> MaskSettings:
    """Returns the settings of a chain of refinements that learn nothing, for scores of any origin.

    Args:
        refine: one refinement, or several with + between them.
        crf: a name of `tagseg.masks.crf_parameters.CRFS`.

    Raises:
        BadInput: there is no such refinement or CRF, or one that learns.
    """
    settings: MaskSettings = parse(MaskSettings, {"refine": refine, "crf": crf}, "refine")
    if settings.refine == NONE:
        raise BadInput(f"refine '{refine}': name at least one refinement.")
    check_sharpening(refine)
    return settings


def check_sharpening(refine: str) -> None:
    """Refuses a chain in which something learns.

    Raises:
        BadInput: it names what learns.
    """
    learning = [n for n in steps_of(refine) if n not in sharpening_names()]
    if learning:
        raise BadInput(f"refine '{refine}': {learning[0]} learns from all photographs, in 'tagseg fit --refine'.")


class LogSettings(Settings):
    """Settings of the log of trainings, `log.csv` in the folder of every stage that trains."""

    every: Count = 20  # steps a line
    to: Literal["csv", "tensorboard", "wandb"] = "csv"  # where lines go beside the file, by Lightning's loggers


class FitSettings(Settings):
    """Everything that decides what a run computes."""

    method: str = "cam"
    backbone: str = "resnet50"
    weights: str = "pretrained"  # "pretrained" (timm's), "random", or a file
    seed: int = Field(default=0, ge=0, lt=1 << 32)
    processes: Count = 1  # that train together, one GPU each; the result is the same but for rounding
    # parts that a process works on one after the other, of its share of a batch, so that it fits into memory; a mean
    # over what is counted (labelled pixels) is then that of the parts' means, and norms by the batch are by the part
    accumulate: Count = 1
    log: LogSettings = LogSettings()
    data: DataSettings = DataSettings()
    encoder: EncoderSettings = EncoderSettings()  # the frozen transformer, where something needs its features
    cache: CacheSettings = CacheSettings()  # of the features of frozen networks
    train: SerializeAsAny[TrainSettings]
    mine: MineSettings = MineSettings()
    masks: MaskSettings = MaskSettings()
    segment: SegmentSettings = SegmentSettings()
    predict: PredictSettings = PredictSettings()  # how the network looks at photographs once it is trained


def segments_itself(settings: FitSettings) -> bool:
    """Returns whether the method's own segmentation network is the one to keep.

    Raises:
        BadInput: it is asked for, and there is none.
    """
    has = load_method(settings.method).segments
    if settings.segment.source == "method" and not has:
        raise BadInput(f"segment.source=method: '{settings.method}' does not segment; set segment.source=masks.")
    return has and settings.segment.source != "masks"


def resolve(
    recipe: str = "cam", overrides: dict[str, Any] | None = None, *, saliency: str | None = None
) -> FitSettings:
    """Returns the settings of a recipe with overrides.

    Args:
        recipe: `METHOD` (its defaults), `DATASET/METHOD` (what was published for that data set), a YAML file, or the
            Python file of a method of your own.
        overrides: dotted keys to values, e.g. `{"train.epochs": 4}`.
        saliency: the source of saliency maps, as `data.saliency`, for the method to learn from if it can, and else to
            score the background; None: saliency is used as the recipe and the overrides say.

    Raises:
        BadInput: there is no such recipe, or it names an unknown setting.
    """
    values = _read_recipe(recipe)
    if saliency is not None:
        method = str((overrides or {}).get("method", values.get("method", "cam")))
        overrides = {**(overrides or {}), **saliency_settings(method, saliency)}
    for key, value in (overrides or {}).items():
        place = values
        *parents, last = key.split(".")
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise BadInput(f"setting '{key}': '{parent}' is a single value and has no parts.")
        place[last] = value
    values["method"] = find_method(str(values.get("method", "cam")))
    where = f"recipe '{recipe}'"
    kind, train = method_settings(values["method"]), values.get("train") or {}
    if (values.get("data") or {}).get("texts") is not None:
        if "maps" not in kind.model_fields:
            raise BadInput(f"data.texts: '{values['method']}' uses no texts; take --method frozen.")
        train = {**train, "maps": "texts"}
    values["train"] = parse(kind, train, where, "train.")
    settings: FitSettings = parse(FitSettings, values, where)
    for part, given in (("train", train), ("train.integral", train.get("integral") or {})):
        if given.get("optimiser") == "sgd-steps" and given.get("hold") and "drops" in kind.model_fields:
            raise BadInput(
                f"{where}: setting '{part}.hold' cannot be {given['hold']}: the rate of {part}.optimiser=sgd-steps "
                f"falls where {part}.drops says; set {part}.hold to 0."
            )
    if uses_texts(settings) and settings.data.texts is None:
        raise BadInput("train.maps=texts: there are no texts; give their file, --set data.texts=FILE.")
    return settings


def known_settings(recipe: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those of the settings that are given for several recipes which this one has: not others' for training.

    A part that it could have and has not, such as OAA's second network, does not come into being by them.
    """
    train = resolve(recipe).train

    def has(parts: list[str]) -> bool:
        return parts[0] in type(train).model_fields and (len(parts) == 1 or getattr(train, parts[0]) is not None)

    return {key: v for key, v in given.items() if not key.startswith("train.") or has(key.split(".")[1:])}


def uses_texts(settings: FitSettings) -> bool:
    """Returns whether class maps come from text embeddings."""
    return getattr(settings.train, "maps", None) == "texts"


def saliency_settings(method: str, source: str) -> dict[str, Any]:
    """Returns the settings by which a method uses saliency from `source` (as `data.saliency`)."""
    kind = method_settings(method)
    if "saliency" in kind.model_fields:
        return {"data.saliency": source, "train.saliency": True}
    if kind.learns_saliency is not TrainSettings.learns_saliency:  # it says itself when it does
        return {"data.saliency": source}
    return {"data.saliency": source, "masks.saliency": True}


def _read_recipe(recipe: str) -> dict[str, Any]:
    if recipe in method_names() or recipe.endswith(".py"):
        return {"method": find_method(recipe)}
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
        values = parse_yaml(text) or {}
    except yaml.YAMLError as error:
        raise BadInput(f"{recipe}: this is not valid YAML ({yaml_fault(error)}).") from error
    if not isinstance(values, dict):
        raise BadInput(f"{recipe}: a recipe is a table of settings, this is a {type(values).__name__}.")
    return values


def parse_yaml(text: str) -> Any:
    """Returns the value that YAML says; references are refused, for a few of them can stand for billions of values."""
    if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text, Loader=yaml.SafeLoader)):
        raise yaml.YAMLError("references (*name) are not allowed; write the value out")
    return yaml.safe_load(text)


def yaml_fault(error: yaml.YAMLError) -> str:
    """Returns what is wrong, and in which line."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    return brief(error) if mark is None or problem is None else f"line {mark.line + 1}: {problem}"


def recipe_names() -> list[str]:
    """Returns the names of all methods, then those of the recipes that come with tagseg."""
    files = (
        f"{folder.name}/{f.name[:-5]}"
        for folder in _RECIPES.iterdir()
        if folder.is_dir()
        for f in folder.iterdir()
        if f.name.endswith(".yaml")
    )
    return [*method_names(), *sorted(files)]


def parse_assignments(pairs: list[str]) -> dict[str, Any]:
    """Turns `["train.epochs=4"]` into `{"train.epochs": 4}`; values are YAML."""
    values = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise BadInput(f"--set {pair}: write it as key=value, for example --set train.epochs=4.")
        try:
            values[key.strip()] = parse_yaml(value)
        except yaml.YAMLError as error:
            raise BadInput(f"--set {pair}: the value is not valid YAML ({yaml_fault(error)}).") from error
    return values
