"""The command line: parses, calls, prints."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer
from typer.core import TyperCommand

import tagseg
from tagseg.errors import BadInput

if TYPE_CHECKING:
    from tagseg.commands.evaluate import Evaluation
    from tagseg.pipeline.fit import FitResult

app = typer.Typer(
    help="Tags in, masks out: segmentation networks from photographs that are only tagged.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


class Command(TyperCommand):
    """A command whose help names what there is: `{stages}` and the like stand for the names in the tables, which are
    imported only when somebody asks for help."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Writes the help with the names in the tables."""
        names = _names()
        for parameter in self.params:
            text = getattr(parameter, "help", None)
            if text:
                parameter.help = text.format_map(names)  # type: ignore[attr-defined]
        super().format_help(ctx, formatter)


def _names() -> dict[str, str]:
    from tagseg.data.readers import readers
    from tagseg.explaining.table import ATTRIBUTIONS
    from tagseg.export import box_formats
    from tagseg.export.mask_formats import mask_formats
    from tagseg.masks.refinements import NONE, refinements, sharpening_names
    from tagseg.pipeline.stages import ORDER
    from tagseg.studies.table import STUDIES

    return {
        "layouts": _either(reader.title for reader in readers()),
        "refinements": _either([*refinements(), NONE]),
        "sharpening": _either(sharpening_names()),
        "stages": _either(ORDER),
        "attributions": _either(ATTRIBUTIONS),
        "studies": _either(STUDIES),
        "formats": _either(box_formats()),
        "masks": _either(mask_formats()),
    }


def _either(names: Iterable[str]) -> str:
    """Names in words: `a, b or c`."""
    *most, last = names
    return f"{', '.join(most)} or {last}" if most else last


Data = Annotated[Path, typer.Argument(help="Folder of the data set: {layouts}.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print results only.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave out photographs with problems, and list them.")]


@app.callback(invoke_without_command=True)
def before(
    version: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False,
    use: Annotated[
        Optional[list[Path]],  # noqa: UP045, typer reads annotations on Python 3.10
        typer.Option(help="Python file of a method of your own, to open runs of it. It is run. Repeatable."),
    ] = None,
) -> None:
    if version:
        typer.echo(tagseg.__version__)
        raise typer.Exit
    for file in use or ():
        tagseg.use_method(file)


EncoderName = Annotated[
    Optional[str],  # noqa: UP045, typer reads annotations on Python 3.10
    typer.Option("--encoder", help="timm's name of the frozen transformer that proxy, gcn and decoders ask."),
]
EncoderWeights = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--encoder-weights", help="Its weights: 'pretrained', 'random' or a file."),
]
BackboneName = Annotated[Optional[str], typer.Option(help="timm's name of the network.")]  # noqa: UP045
BackboneWeights = Annotated[Optional[str], typer.Option(help="'pretrained', 'random' or a file.")]  # noqa: UP045
TrueMasks = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(help="Masks to measure with, in place of those of the data set, as {masks}."),
]
Assignments = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option("--set", metavar="KEY=VALUE", help="Change a setting, e.g. --set train.epochs=4. Repeatable."),
]


def _encoder(name: str | None, weights: str | None) -> Any:
    """The settings of the encoder that options name; None where they name none."""
    from tagseg.networks.settings import EncoderSettings

    given = {key: value for key, value in (("name", name), ("weights", weights)) if value is not None}
    return EncoderSettings.model_validate(given) if given else None


@app.command(cls=Command)
def fit(
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder of the run; the same command goes on where it was stopped.")],
    recipe: Annotated[
        str,
        typer.Option(
            "--recipe",
            "--method",
            help="METHOD, DATASET/METHOD (see 'tagseg recipes'), a YAML file, or the Python file of a method.",
        ),
    ] = "photos/cam",
    assignments: Assignments = None,
    backbone: BackboneName = None,
    weights: BackboneWeights = None,
    encoder: EncoderName = None,
    encoder_weights: EncoderWeights = None,
    refine: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="{refinements}; several with + between, e.g. irn+crf."),
    ] = None,
    saliency: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            metavar="DIR|auto|built-in|FILE",
            help="Use saliency maps: to learn from them, if the method can, else to score the background.",
        ),
    ] = None,
    masks: TrueMasks = None,
    seed: Annotated[Optional[int], typer.Option(help="Everything random depends on it.")] = None,  # noqa: UP045
    until: Annotated[str, typer.Option(help="Last stage: {stages}.")] = "report",
    skip_bad: SkipBad = False,
    quiet: Quiet = False,
) -> None:
    """Train a segmentation network from tagged photographs."""
    more = {"masks.refine": refine, "data.masks": masks and str(masks), "seed": seed}
    settings = _changed(assignments, backbone, weights, encoder, encoder_weights, more)
    result = tagseg.fit(
        data,
        out,
        recipe=recipe,
        settings=settings,
        saliency=saliency,
        until=until,
        skip_bad=skip_bad,
        quiet=quiet,
    )
    _print_fit(result)


@app.command(cls=Command)
def plan(
    data: Data,
    recipe: Annotated[
        str, typer.Option("--recipe", "--method", help="METHOD, DATASET/METHOD (see 'tagseg recipes'), or a file.")
    ] = "photos/cam",
    gpus: Annotated[int, typer.Option(min=1, help="Processes that are to train together, one GPU each.")] = 1,
    out: Annotated[Path, typer.Option(help="Where the run would lie, for the room on that disk.")] = Path("."),
    assignments: Assignments = None,
    backbone: BackboneName = None,
    weights: BackboneWeights = None,
    encoder: EncoderName = None,
    encoder_weights: EncoderWeights = None,
    quiet: Quiet = False,
) -> None:
    """Say what a run would do, how long it would take, and what it needs, by a short trial on this machine."""
    settings = _changed(assignments, backbone, weights, encoder, encoder_weights)
    found = tagseg.plan(data, recipe=recipe, settings=settings, processes=gpus, out=out, quiet=quiet)
    typer.echo(found.markdown())


@app.command(cls=Command)
def compare(
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder of the comparison; the same command goes on where it was stopped.")],
    methods: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="METHOD or DATASET/METHOD, with commas between them; see 'tagseg recipes'."),
    ] = None,
    rows: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="YAML file of rows (NAME: METHOD, or NAME: with recipe and settings), or a table's name."),
    ] = None,
    seeds: Annotated[str, typer.Option(help="Seeds of every row, with commas between them.")] = "0,1,2",
    updates: Annotated[Optional[int], typer.Option(min=1, help="Optimiser steps of every network.")] = None,  # noqa: UP045
    seconds: Annotated[Optional[float], typer.Option(min=1, help="Seconds of training of every row.")] = None,  # noqa: UP045
    refine: Annotated[
        str, typer.Option(help="Chains of {sharpening} with + between, or none; with commas between chains.")
    ] = "none,proxy,crf,proxy+crf",
    assignments: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of all rows that know it. Repeatable."),
    ] = None,
    backbone: BackboneName = None,
    weights: BackboneWeights = None,
    encoder: EncoderName = None,
    encoder_weights: EncoderWeights = None,
    measure: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="Training photographs that masks are measured on, at even steps; all by default."),
    ] = None,
    masks: TrueMasks = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time; they share the cores and the GPUs.")] = 1,
    quiet: Quiet = False,
) -> None:
    """Hold methods against each other on photographs that have masks: equal updates or equal time, several seeds."""
    if (methods is None) == (rows is None):
        raise BadInput("say which methods to compare: --methods cam,oaa,... or --rows FILE, one of the two.")
    try:
        numbers = [int(seed) for seed in seeds.split(",")]
    except ValueError as error:
        raise BadInput(f"--seeds {seeds}: give whole numbers with commas between them, e.g. 0,1,2.") from error
    found = tagseg.compare(
        data,
        out,
        [name.strip() for name in methods.split(",")] if methods is not None else str(rows),
        seeds=numbers,
        updates=updates,
        seconds=seconds,
        refine=[chain.strip() for chain in refine.split(",")],
        settings=_changed(
            assignments, backbone, weights, encoder, encoder_weights, {"data.masks": masks and str(masks)}
        ),
        measure=measure,
        jobs=jobs,
        quiet=quiet,
    )
    typer.echo(found.markdown())
    typer.echo(f"page: {out / 'compare.html'}")


@app.command("check-method", cls=Command)
def check_method(run: Annotated[Path, typer.Argument(help="Folder of a run, with its class maps.")]) -> None:
    """Say whether what the method of a run builds on is there, and how to mend it."""
    from tagseg.pipeline.premise import read_premise

    found = read_premise(run)
    for name, value in found.present().items():
        if name != "sentences":
            typer.echo(f"{name.replace('_', ' '):<10}{value:>8.3g}")
    for sentence in found.sentences or ["Nothing is amiss."]:
        typer.echo(sentence)


@app.command(cls=Command)
def predict(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run, or of a model.")],
    images: Annotated[list[Path], typer.Argument(help="Photographs, videos, or folders of them.")],
    out: Annotated[Path, typer.Option(help="Folder for the masks.")],
    overlay: Annotated[
        bool, typer.Option("--overlay", help="Also write the photograph or video with its mask over it.")
    ] = False,
    every: Annotated[int, typer.Option(min=1, help="Of a video, every so many frames.")] = 1,
    names: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Only the photographs in this list, a name a line, e.g. VOC's test.txt."),
    ] = None,
    side: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Long side at scale 1, pixels; 'trained', or 'own', that of the photograph."),
    ] = None,
    scales: Annotated[Optional[str], typer.Option(help="Sizes to look at, e.g. 0.75,1,1.25.")] = None,  # noqa: UP045
    flip: Annotated[
        Optional[bool],  # noqa: UP045
        typer.Option("--flip/--no-flip", help="Look at the mirrored photograph too.", show_default=False),
    ] = None,
    fuse: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="'mean' of the probabilities of all sizes; 'max' or 'max-sum', the largest logits."),
    ] = None,
    crf: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Sharpen with a dense CRF of these published parameters, e.g. deeplab; or 'none'."),
    ] = None,
    refine: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Sharpen with {sharpening}; several with + between."),
    ] = None,
    encoder: EncoderName = None,
    encoder_weights: EncoderWeights = None,
    skip_bad: SkipBad = False,
    quiet: Quiet = False,
) -> None:
    """Write a mask (palette PNG: 0 background, class c at c + 1) for every photograph and every frame of a video.

    Photographs are looked at as the run's test protocol says (its settings under 'predict'), but for what is said here.
    """
    try:
        sizes = None if scales is None else tuple(float(s) for s in scales.split(","))
    except ValueError as error:
        raise BadInput(f"--scales {scales}: give numbers with commas between them, e.g. 0.75,1,1.25.") from error
    written = tagseg.predict(
        run,
        images,
        out,
        names=names,
        side=int(side) if side is not None and side.isdecimal() else side,
        scales=sizes,
        flip=flip,
        fuse=fuse,
        crf=crf,
        refine=refine,
        encoder=_encoder(encoder, encoder_weights),
        overlay=overlay,
        every=every,
        skip_bad=skip_bad,
        quiet=quiet,
    )
    typer.echo(f"{len(written)} masks in {out}")


@app.command(cls=Command)
def refine(
    images: Annotated[list[Path], typer.Argument(help="Photographs, or folders of them.")],
    masks: Annotated[
        Path, typer.Option(help="Rough masks of the same names: NAME.png (indices), NAME.npy (scores), or {masks}.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the refined masks.")],
    refine: Annotated[str, typer.Option(help="{sharpening}; several with + between.")] = "crf",
    crf: Annotated[str, typer.Option(help="Published parameters of the CRF.")] = "irn-label",
    encoder: EncoderName = None,
    encoder_weights: EncoderWeights = None,
    overlay: Annotated[
        bool, typer.Option("--overlay", help="Also write the photograph with its mask over it.")
    ] = False,
    threads: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="Photographs at a time; by default one for each core."),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Make rough masks of any origin follow the edges of their photographs."""
    result = tagseg.refine(
        images,
        masks,
        out,
        refine=refine,
        crf=crf,
        encoder=_encoder(encoder, encoder_weights),
        overlay=overlay,
        threads=threads,
        quiet=quiet,
    )
    typer.echo(f"{len(result.masks)} masks in {out}, {result.per_second:.1f} a second")


@app.command(cls=Command)
def export(
    source: Annotated[Path, typer.Argument(help="A run, or masks: a folder of PNGs, COCO's JSON, any format below.")],
    to: Annotated[str, typer.Option(help="{masks}; or onnx, the network of a run.")],
    out: Annotated[Path, typer.Option(help="Folder for the result, which must not be there yet.")],
    images: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Option(help="Photographs, or folders of them; by default those of the run's data."),
    ] = None,
    classes: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Class names, one a line, where masks have none; or a run that has them."),
    ] = None,
    split: Annotated[
        str, typer.Option(help="Of a run: train (its pseudo-masks), val (what its network says), or both: train,val.")
    ] = "train",
    instances: Annotated[
        bool, typer.Option("--instances", help="Parts that hang together are objects of their own.")
    ] = False,
    polygons: Annotated[bool, typer.Option("--polygons", help="Outlines instead of run lengths (coco, cvat).")] = False,
    prefix: Annotated[
        str, typer.Option(help="What stands before the path of a photograph (labelstudio).")
    ] = "/data/local-files/?d=",
    int8: Annotated[bool, typer.Option("--int8", help="Weights of 8 bits (onnx).")] = False,
    quiet: Quiet = False,
) -> None:
    """Write masks for other tools (COCO, YOLO, VOC, Label Studio, CVAT, named PNGs), or the network."""
    if to == "onnx":
        model = tagseg.export_onnx(source, out, int8=int8, images=images, quiet=quiet)
        changed = "" if model.changed is None else f"; with 8 bits {100 * model.changed:.1f} % of the pixels change"
        typer.echo(f"{model.path}: within {model.difference:.1g} of torch at three sizes{changed}")
        return
    result = tagseg.export_masks(
        source,
        to,
        out,
        images=images,
        classes=classes,
        splits=tuple(filter(None, split.split(","))),
        instances=instances,
        polygons=polygons,
        prefix=prefix,
        quiet=quiet,
    )
    typer.echo(f"masks of {result.photographs} photographs: {result.path}")


@app.command(cls=Command)
def report(
    first: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    second: Annotated[Path, typer.Argument(help="Folder of another one on the same data set.")],
    out: Annotated[Path, typer.Option(help="The page.")] = Path("comparison.html"),
) -> None:
    """Put two runs beside each other on a page: numbers, settings that differ, photographs gained and lost."""
    typer.echo(tagseg.report_on(first, second, out))


@app.command(cls=Command)
def segments(
    images: Annotated[list[Path], typer.Argument(help="Photographs, or folders of them.")],
    encoder: Annotated[Path, typer.Option(help="SAM's image encoder, an ONNX file.")],
    decoder: Annotated[Path, typer.Option(help="SAM's decoder, an ONNX file.")],
    out: Annotated[Path, typer.Option(help="Folder for NAME.json, COCO's run lengths.")],
    points: Annotated[int, typer.Option(min=1, help="Points of the grid, per side.")] = 32,
    quiet: Quiet = False,
) -> None:
    """Cut everything in photographs out with SAM, for `--refine segments`; what is there already is kept."""
    written = tagseg.cut_segments(images, encoder, decoder, out, points=points, quiet=quiet)
    typer.echo(f"segments of {len(written)} photographs in {out}; use them with --set masks.segments.folder={out}")


@app.command(cls=Command)
def evaluate(
    predictions: Annotated[Path, typer.Argument(metavar="PRED", help="Masks: a folder of PNGs, or {masks}.")],
    truth: Annotated[Path, typer.Argument(help="True masks of the same names, in any of these formats.")],
    classes: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Class names: a text file, COCO's annotations, or a run; else looked for beside the masks."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Where the numbers go as JSON.")] = Path("evaluation.json"),
) -> None:
    """Print the IoU of every class, and write it as JSON."""
    result = tagseg.evaluate(predictions, truth, classes=classes, out=out)
    _print_scores(result)
    if result.truths_without_prediction:
        typer.echo(f"{result.truths_without_prediction} true masks have no prediction and were left out")
    if result.predictions_without_truth:
        typer.echo(f"{result.predictions_without_truth} masks have no truth and were left out")
    typer.echo(f"{result.masks} masks; written to {out}")


@app.command(cls=Command)
def check(
    data: Data,
    tags: Annotated[str, typer.Option(help="Where VOC tags come from: xml or masks.")] = "xml",
    quiet: Quiet = False,
) -> None:
    """Read a data set and say everything that is wrong with it."""
    if tags not in ("xml", "masks"):
        raise BadInput(f"--tags {tags}: give xml or masks.")
    result = tagseg.check(data, tags=tags, quiet=quiet)  # type: ignore[arg-type]
    for problem in result.problems:
        typer.echo(problem)
    for note in result.notes:
        typer.echo(f"note: {note}")
    typer.echo(
        f"{result.train} training and {result.val} evaluation photographs, {result.masks} with masks, "
        f"{result.empty} without tags; {len(result.classes)} classes: "
        + ", ".join(f"{name} {count}" for name, count in result.classes.items())
    )
    if result.problems:
        typer.echo(f"{len(result.problems)} problem{'s' if len(result.problems) > 1 else ''}")
        raise typer.Exit(2)
    typer.echo("nothing is wrong")


Photographs = Annotated[list[Path], typer.Argument(help="Photographs, or folders of them.")]
Model = Annotated[str, typer.Option(help="timm:NAME, torchvision:NAME, or the folder of a run.")]
Weights = Annotated[str, typer.Option(help="'pretrained', 'random' or a file; a run has its own.")]
LayerNames = Annotated[
    str, typer.Option(help="'stages', 'last', 'sharp' (at least 12 cells), or names with commas between.")
]
ClassNames = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="Names or numbers with commas between them; without it, the highest scores."),
]
Side = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(help="Photographs are looked at as squares of this many pixels; more shows smaller things."),
]

Proxy = Annotated[
    bool, typer.Option("--proxy", help="Spread the maps between parts that look alike to a frozen transformer.")
]


def _proxy(proxy: bool, name: str | None, weights: str | None) -> Any:
    """The encoder that maps are spread along; None where nobody asked for it."""
    from tagseg.networks.settings import EncoderSettings

    chosen = _encoder(name, weights)
    if chosen is not None and not proxy:
        raise BadInput("--encoder: nothing asks the encoder here; add --proxy.")
    return (chosen or EncoderSettings()) if proxy else None


@app.command(cls=Command)
def explain(
    images: Photographs,
    model: Model,
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("explained"),
    weights: Weights = "pretrained",
    method: Annotated[
        str,
        typer.Option(help="{attributions} (own: of a run); several with commas between them."),
    ] = "layercam",
    layers: LayerNames = "stages",
    classes: ClassNames = None,
    top: Annotated[int, typer.Option(help="How many of the highest scores.")] = 3,
    side: Side = None,
    proxy: Proxy = False,
    encoder: EncoderName = None,
    encoder_weights: EncoderWeights = None,
    quiet: Quiet = False,
) -> None:
    """Show where a classifier sees its classes: maps over the photographs, and methods by layers."""
    written = tagseg.explain(
        images,
        model,
        out,
        weights=weights,
        methods=_list(method),
        layers=_layers(layers),
        classes=None if classes is None else _list(classes),
        top=top,
        side=side,
        encoder=_proxy(proxy, encoder, encoder_weights),
        quiet=quiet,
    )
    typer.echo(f"{len(written)} pictures in {out}")


@app.command(cls=Command)
def locate(
    images: Photographs,
    model: Model,
    out: Annotated[Path, typer.Option(help="Folder for the boxes and the pictures.")] = Path("located"),
    weights: Weights = "pretrained",
    method: Annotated[str, typer.Option(help="As for explain; one.")] = "layercam",
    layers: LayerNames = "sharp",
    classes: ClassNames = None,
    top: Annotated[int, typer.Option(help="How many of the highest scores.")] = 1,
    side: Side = None,
    proxy: Proxy = False,
    encoder: EncoderName = None,
    encoder_weights: EncoderWeights = None,
    threshold: Annotated[float, typer.Option(help="Fraction of the map's maximum.")] = 0.15,
    graph_cut: Annotated[bool, typer.Option("--graph-cut", help="Join scattered evidence first.")] = False,
    ten_crops: Annotated[bool, typer.Option("--ten-crops", help="Average the maps of ten crops.")] = False,
    formats: Annotated[str, typer.Option("--format", help="{formats}; several with commas between them.")] = "csv,coco",
    quiet: Quiet = False,
) -> None:
    """Write boxes (CSV and COCO JSON) of the classes in photographs, and draw them."""
    boxes = tagseg.locate(
        images,
        model,
        out,
        weights=weights,
        method=method,
        layers=_layers(layers),
        classes=None if classes is None else _list(classes),
        top=top,
        side=side,
        encoder=_proxy(proxy, encoder, encoder_weights),
        threshold=threshold,
        cut=graph_cut,
        crops=ten_crops,
        formats=_list(formats),
        quiet=quiet,
    )
    typer.echo(f"{len(boxes)} boxes in {out}")


@app.command(cls=Command)
def decompose(
    images: Photographs,
    model: Model,
    out: Annotated[Path, typer.Option(help="Folder for the trees.")] = Path("decomposed"),
    weights: Weights = "pretrained",
    layers: Annotated[
        str, typer.Option(help="'stages', or names, shallow to deep, with commas between them.")
    ] = "stages",
    classes: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--class", "--classes", help="Names or numbers with commas between them; without it, the highest score."
        ),
    ] = None,
    top: Annotated[int, typer.Option(help="How many channels a decision is decomposed to.")] = 3,
    levels: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="How many layers deep; without it, down to the first stage."),
    ] = None,
    overlap: Annotated[
        float, typer.Option(help="Channels whose maps overlap by more IoU than this are merged; 1 merges none.")
    ] = 0.9,
    patches: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder of photographs: show their parts that excite each channel most."),
    ] = None,
    side: Side = None,
    quiet: Quiet = False,
) -> None:
    """Show why a classifier decided so: channels, the channels behind them, and so on, as a tree with pictures."""
    written = tagseg.decompose(
        images,
        model,
        out,
        weights=weights,
        layers=_layers(layers),
        classes=None if classes is None else _list(classes),
        top=top,
        levels=levels,
        overlap=overlap,
        patches=patches,
        side=side,
        quiet=quiet,
    )
    for done in written:
        typer.echo(f"{sum(1 for _ in done.tree.nodes())} channels, {done.folder / 'pyramid.png'}")


@app.command("app", cls=Command)
def app_(
    run: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Argument(help="Folder of a run whose pseudo-masks are to be looked through and mended."),
    ] = None,
    model: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="To explore instead: timm:NAME, torchvision:NAME, or the folder of a run. Repeatable."),
    ] = None,
    weights: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="'pretrained', 'random' or a file; once for all models, or once for each."),
    ] = None,
    images: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder of pictures to choose from, beside those that are uploaded."),
    ] = None,
    patches: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder of photographs: show their parts that excite a channel most."),
    ] = None,
    side: Side = None,
    port: Annotated[Optional[int], typer.Option(help="By default the first free one from 7860.")] = None,  # noqa: UP045
) -> None:
    """Mend the pseudo-masks of a run, or explore why a classifier decided so, in a web page on this machine."""
    if run is not None and not model:
        tagseg.review(run, port=port)
        return
    if run is not None or not model:
        raise BadInput("give either the folder of a run, to mend its masks, or --model, to explore a classifier.")
    tagseg.explore(model, weights or ("pretrained",), images=images, patches=patches, side=side, port=port)


@app.command(cls=Command)
def study(
    name: Annotated[
        str,
        typer.Argument(help="{studies}."),
    ],
    data: Data,
    model: Model,
    out: Annotated[Path, typer.Option(help="Folder for the table and the picture.")] = Path("study"),
    weights: Weights = "pretrained",
    method: Annotated[
        str, typer.Option(help="As for explain.")
    ] = "gradcam,gradcam++,layercam,layercam-normal,normgrad",
    layers: LayerNames = "stages",
    split: Annotated[str, typer.Option(help="val or train.")] = "val",
    limit: Annotated[Optional[int], typer.Option(help="So many photographs, spread over the split.")] = None,  # noqa: UP045
    side: Side = None,
    threshold: Annotated[float, typer.Option(help="Of boxes: fraction of the map's maximum.")] = 0.15,
    against: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Of sanity: a run of the same network that was taught wrong labels."),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Of studies of channels: how many of each decomposition.")] = 3,
    regions: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Of context: the folder of PASCAL-Context, whose labels name everything."),
    ] = None,
    official: Annotated[
        bool, typer.Option("--official", help="Of boxes: go as the published script does, by ten crops.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Measure maps of the true tags, or what a classifier's channels do; a table and a picture."""
    result = tagseg.study(
        name,
        data,
        model,
        out,
        weights=weights,
        methods=_list(method),
        layers=_layers(layers),
        split=split,
        limit=limit,
        side=side,
        threshold=threshold,
        against=against,
        top=top,
        regions=regions,
        compat="official" if official else "paper",
        quiet=quiet,
    )
    for table in result.tables:
        typer.echo(table.markdown())
    typer.echo(f"table    {result.text}\npicture  {result.picture}")


@app.command(cls=Command)
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the data set and the run.")] = Path("tagseg-demo"),
    seed: Annotated[int, typer.Option(help="Of the data set and the run.")] = 0,
    quiet: Quiet = False,
) -> None:
    """Make a small data set, run the main job on it, and print where the report lies."""
    _print_fit(tagseg.demo(out, seed=seed, quiet=quiet))


@app.command(cls=Command)
def doctor(
    recipe: Annotated[
        str, typer.Option("--recipe", "--method", help="Whose networks to look for, see 'tagseg recipes'.")
    ] = "photos/cam",
    assignments: Assignments = None,
    backbone: BackboneName = None,
    weights: BackboneWeights = None,
    encoder: EncoderName = None,
    encoder_weights: EncoderWeights = None,
) -> None:
    """Say what this machine has, what is missing, and whether the networks of a recipe can be loaded."""
    found = tagseg.doctor(recipe, _changed(assignments, backbone, weights, encoder, encoder_weights))
    for finding in found:
        typer.echo(f"{'ok ' if finding.good else '-- '} {finding.what:<24} {finding.text}")
    if not all(finding.good or not finding.needed for finding in found):
        raise typer.Exit(1)


@app.command(cls=Command)
def settings(
    part: Annotated[str, typer.Argument(help="Only those that begin so, for example masks.psa")] = "",
    method: Annotated[str, typer.Option(help="Whose settings of training to list.")] = "cam",
    markdown: Annotated[bool, typer.Option("--markdown", help="All of them, of every method, as the page.")] = False,
) -> None:
    """List every setting that --set changes: what it is, what it may be, and its default."""
    from tagseg.pipeline import setting_list

    if markdown:
        typer.echo(setting_list.markdown(), nl=False)
        return
    found = setting_list.setting_list(method, part)
    if not found:
        raise BadInput(f"settings '{part}': none begins so; 'tagseg settings' lists all.")
    for setting in found:
        default = "" if setting.default is None else f" = {setting.default}"
        typer.echo(f"{setting.key}{default}  ({setting.kind})" + (f"\n    {setting.about}" if setting.about else ""))


@app.command(cls=Command)
def recipes(
    name: Annotated[Optional[str], typer.Argument(help="Print all settings of this one as YAML.")] = None,  # noqa: UP045
    published: Annotated[
        bool, typer.Option("--published", help="Print what the paper and its code have, beside it, as Markdown.")
    ] = False,
) -> None:
    """List the recipes, or print one with all its settings."""
    import yaml

    from tagseg.pipeline.published import markdown, names
    from tagseg.pipeline.settings import recipe_names, resolve

    if published:
        if name is not None and name not in names():
            resolve(name)
            raise BadInput(f"recipe '{name}': it follows no publication; those that do: {', '.join(names())}.")
        chosen = names() if name is None else [name]
        typer.echo("\n\n".join(f"## {one}\n\n{markdown(one)}" for one in chosen))
    elif name is None:
        typer.echo("\n".join(recipe_names()))
    else:
        typer.echo(
            yaml.safe_dump(resolve(name).model_dump(mode="json"), sort_keys=False, default_flow_style=None),
            nl=False,
        )


def _changed(
    assignments: list[str] | None,
    backbone: str | None,
    weights: str | None,
    encoder: str | None,
    encoder_weights: str | None,
    more: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The settings that options change, by dotted keys."""
    from tagseg.pipeline.settings import parse_assignments

    named = {"backbone": backbone, "weights": weights, "encoder.name": encoder, "encoder.weights": encoder_weights}
    named |= more or {}
    return parse_assignments(assignments or []) | {k: v for k, v in named.items() if v is not None}


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _layers(text: str) -> str | list[str]:
    return text if text in ("stages", "last") else _list(text)


def _print_fit(result: FitResult) -> None:
    if result.helped:
        return
    names = {
        "seeds": "seeds, training",
        "pseudo-masks": "pseudo-masks, training",
        "with corrections": "  with those corrected",
        "class maps": "class maps, evaluation",
        "segmentation": "segmentation, evaluation",
        "test protocol": "  by the test protocol",
    }
    for part, scores in result.metrics.score_tables().items():
        typer.echo(
            f"{names[part]:<27} mIoU {_number(scores.miou)}  precision {_number(scores.precision)}"
            f"  recall {_number(scores.recall)}"
        )
    for name, path in (("model", result.model), ("report", result.report)):
        if path is not None:
            typer.echo(f"{name:<7} {path}")
    if result.report is None:
        typer.echo(f"run     {result.folder}")


def _print_scores(scores: Evaluation) -> None:
    width = max(len(name) for name in scores.classes)
    typer.echo(f"{'':<{width}}     IoU   precision  recall")
    rows = [(name, row.iou, row.precision, row.recall) for name, row in scores.classes.items()]
    for name, *values in [*rows, ("mean", scores.miou, scores.precision, scores.recall)]:
        iou, precision, recall = map(_number, values)
        typer.echo(f"{name:<{width}}  {iou}      {precision}  {recall}")


def _number(value: float | None) -> str:
    return "     -" if value is None else f"{value:6.2f}"


class Stopped(BaseException):
    """A signal asks the process to end; nothing between here and `main` may mistake it for an error."""


def _stop(number: int, _: Any) -> None:
    signal.signal(number, signal.SIG_DFL)  # the next one ends the process at once
    raise Stopped(number)


def main() -> None:
    """Entry of the `tagseg` command: 0 done, 2 bad input, 130 stopped by Ctrl-C, 143 by SIGTERM."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        app()
    except BadInput as error:
        print(f"tagseg: {error}", file=sys.stderr)
        sys.exit(2)
    except (Stopped, KeyboardInterrupt) as error:
        goes_on = "; the same command goes on from the last completed piece of work" if "fit" in sys.argv[1:] else ""
        print(f"tagseg: stopped{goes_on}.", file=sys.stderr)
        sys.exit(128 + (error.args[0] if isinstance(error, Stopped) else signal.SIGINT))


if __name__ == "__main__":
    main()
