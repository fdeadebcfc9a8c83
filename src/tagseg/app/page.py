"""The page of the web explorer, and its server on this machine.

    serve({"mobilenetv2": ("timm:mobilenetv2_100", "pretrained")}, folder=Path("photos"))

Two panels, the second shown on demand, answer alone: two pictures, two classes or two models side by side. What can be
asked and how it is answered is in `explorer`; here is what is clicked.
"""

from __future__ import annotations

import atexit
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tagseg.app.explorer import MAX_BYTES, Explorer, Option, View, corners
from tagseg.app.guard import Guard
from tagseg.errors import BadInput, brief

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # before the import: nothing is asked of the internet

try:
    import gradio as gr
    from starlette.middleware import Middleware
except ImportError as error:
    raise BadInput("the explorer needs Gradio, which is not installed; pip install 'tagseg[app]'.") from error

_HOURS = 3600
_STYLE = """
.told { color: #b91c1c; font-weight: 600; min-height: 1.5em; }
footer { display: none !important; }
"""


@dataclass(frozen=True)
class Asked:
    """The memory of a panel between clicks: the view, where its galleries lead, and the first corner of a region."""

    view: View | None = None
    classes: tuple[View, ...] = ()
    channels: tuple[View, ...] = ()
    shown: tuple[int, int] = (1, 1)  # (H, W) of the large picture
    corner: tuple[int, int] | None = None


def serve(
    models: Mapping[str, tuple[str, str]],
    *,
    folder: Path | None = None,
    patches: Sequence[Path] = (),
    side: int | None = None,
    port: int | None = None,
    block: bool = True,
) -> str:
    """Serves the web explorer on this machine only.

    Args:
        models, folder, patches, side: see `Explorer`.
        port: None for the first free one from 7860.
        block: until the process is stopped; else the server goes on beside it.

    Returns:
        the address.

    Raises:
        BadInput: the port is taken, a model cannot be loaded, or see `Explorer`.
    """
    kept = _private_folder()
    explorer = Explorer(models, folder, patches, side)
    for name in models:  # what does not load is told before anything is served
        explorer.class_names(name)
    page = build(explorer)
    page.queue(default_concurrency_limit=4, max_size=64)
    try:
        _, address, _ = page.launch(
            server_name="127.0.0.1",
            server_port=port,
            share=False,
            inbrowser=False,
            quiet=True,
            prevent_thread_lock=True,
            max_file_size=MAX_BYTES,
            ssr_mode=False,
            footer_links=[],
            app_kwargs={"middleware": [Middleware(Guard, folder=kept)]},
            theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
            css=_STYLE,
        )
    except OSError as error:
        raise BadInput(f"port {port} is taken or not allowed ({brief(error)}); choose another with --port.") from error
    if block:
        print(f"explorer  {address}  (stop it with Ctrl-C)", flush=True)
        page.block_thread()
    return address


def build(explorer: Explorer) -> gr.Blocks:
    """Builds the page, which is not yet served."""
    with gr.Blocks(
        title="tagseg explorer", fill_width=True, delete_cache=(_HOURS, _HOURS), analytics_enabled=False
    ) as page:
        gr.Markdown(
            "## Why did it say that?\n"
            "Open a picture, click a class, then click any channel to see what it is made of. "
            "Two clicks on the large picture hide the region between them."
        )
        compare = gr.Checkbox(label="compare two side by side", elem_id="compare")
        with gr.Row():
            galleries = _panel(explorer, "a")
            with gr.Column(visible=False, elem_id="second") as second:
                galleries += _panel(explorer, "b")

        def halve(on: bool) -> list[Any]:
            narrow = gr.update(columns=3, height=400) if on else gr.update(columns=6, height=210)
            return [gr.update(visible=on), *(narrow for _ in galleries)]

        compare.change(halve, compare, [second, *galleries], show_progress="hidden")
    return page


def _panel(explorer: Explorer, name: str) -> list[gr.Gallery]:
    """One half of the page; its galleries of options."""

    def named(part: str) -> str:
        return f"{name}-{part}"

    names = list(explorer.models)
    asked = gr.State(Asked())
    with gr.Column():
        with gr.Row():
            model = gr.Dropdown(names, value=names[0], label="model", elem_id=named("model"))
            pictures = explorer.pictures()
            chosen = gr.Dropdown(
                pictures, value=None, label="picture", visible=bool(pictures), elem_id=named("picture")
            )
            upload = gr.UploadButton("open a picture", elem_id=named("upload"))
        told = gr.Markdown(elem_id=named("told"), elem_classes="told")
        trail = gr.Markdown(elem_id=named("trail"))
        with gr.Row():
            large = gr.Image(
                label="evidence", interactive=False, elem_id=named("large"), buttons=[], height=380, format="jpeg"
            )
            with gr.Column():
                scores = gr.Dataframe(
                    headers=["class", "whole picture", "now"], interactive=False, elem_id=named("scores")
                )
                number = gr.Dropdown([], label="any other class", elem_id=named("class"))
        classes = _gallery("classes: click one", named("classes"))
        with gr.Row():
            back = gr.Button("back", elem_id=named("back"))
            hide = gr.Button("hide what this channel looks at", elem_id=named("hide"))
            show = gr.Button("show everything again", elem_id=named("show"))
            make = gr.Button("make the tree", elem_id=named("make"))
            download = gr.DownloadButton("download the tree", visible=False, elem_id=named("download"))
        channels = _gallery("channels behind it: click one to go deeper", named("channels"))
        details = _gallery("the last channel", named("details"), columns=3, height=300)

    outputs = [asked, told, trail, large, scores, classes, channels, details, number, download]

    def answer(view: View, before: Asked) -> dict[Any, Any]:
        """What the panel shows at a view, as far as it differs from what is there."""
        picture, below = explorer.picture_of(view), explorer.channels(view)
        layer = explorer.layer_below(view) or "no layer"
        steps = " → ".join(explorer.trail(view))
        changes: dict[Any, Any] = {
            told: "",
            trail: steps + ("" if below else "  \nthis is the first stage: nothing lies below it"),
            large: picture,
            channels: gr.update(value=_shown(below), label=f"channels of {layer}: click one to go deeper"),
            details: explorer.details(view),
            download: gr.update(visible=False),
        }
        leads = before.classes
        if before.view is None or replace(before.view, path=()) != replace(view, path=()):
            options = explorer.classes(view)
            leads = tuple(option.view for option in options)
            changes[classes] = _shown(options)
            changes[scores] = [[label, f"{whole:.3f}", f"{now:.3f}"] for label, whole, now in explorer.scores(view)]
            known = explorer.class_names(view.model)
            same = before.view is not None and before.view.model == view.model
            label = None if view.number is None else known[view.number]
            changes[number] = gr.update(value=label) if same else gr.update(choices=list(known), value=label)
        shape = (picture.shape[0], picture.shape[1])
        return changes | {asked: Asked(view, leads, tuple(option.view for option in below), shape)}

    def reply(event: Callable[..., View]) -> Callable[..., dict[Any, Any]]:
        """A listener that goes where `event` leads; what cannot be done is told, and nothing else changes."""

        def listener(before: Asked, *inputs: Any) -> dict[Any, Any]:
            try:
                return answer(event(before, *inputs), before)
            except BadInput as error:
                return {told: without_paths(str(error))}

        return listener

    def uploaded(_: Asked, path: str, model_name: str) -> View:
        return View(model_name, Path(path))

    def picked(_: Asked, file: str | None, model_name: str) -> View:
        if not file:
            raise BadInput("choose a picture of the list.")
        return View(model_name, explorer.picture(file))

    def other_model(before: Asked, model_name: str) -> View:
        return replace(_there(before), model=model_name, number=None, path=())

    def other_class(before: Asked, label: str | None) -> View:
        view = _there(before)
        known = explorer.class_names(view.model)
        if label not in known:
            raise BadInput(f"class '{label}' is not one of the model's; choose one of the list.")
        return replace(view, number=known.index(label), path=())

    def to_class(before: Asked, event: gr.SelectData) -> View:
        return before.classes[event.index]

    def to_channel(before: Asked, event: gr.SelectData) -> View:
        return before.channels[event.index]

    def upwards(before: Asked) -> View:
        view = _there(before)
        if not view.path:
            raise BadInput("this is the class itself; there is nothing above it.")
        return replace(view, path=view.path[:-1])

    def hidden(before: Asked) -> View:
        return explorer.hide(_there(before))

    def whole(before: Asked) -> View:
        return replace(_there(before), hidden=(), path=())

    def clicked(before: Asked, event: gr.SelectData) -> dict[Any, Any]:
        """The first click is remembered, the second hides what lies between."""
        place = (int(event.index[0]), int(event.index[1]))
        if before.corner is None:
            words = "now click the opposite corner of the region to hide."
            return {asked: replace(before, corner=place), told: words}
        try:
            return answer(explorer.hide(_there(before), corners(before.corner, place, before.shown)), before)
        except BadInput as error:
            return {asked: replace(before, corner=None), told: without_paths(str(error))}

    def made(before: Asked) -> dict[Any, Any]:
        try:
            packed = explorer.tree(_there(before))
        except BadInput as error:
            return {told: without_paths(str(error))}
        folder = Path(tempfile.mkdtemp(dir=_cache()))
        (folder / "tree.zip").write_bytes(packed)
        return {download: gr.update(value=str(folder / "tree.zip"), visible=True), told: ""}

    quick: dict[str, Any] = {"show_progress": "minimal", "outputs": outputs}
    upload.upload(reply(uploaded), [asked, upload, model], **quick)
    chosen.input(reply(picked), [asked, chosen, model], **quick)
    model.input(reply(other_model), [asked, model], **quick)
    number.input(reply(other_class), [asked, number], **quick)
    classes.select(_with_event(reply(to_class)), [asked], **quick)
    channels.select(_with_event(reply(to_channel)), [asked], **quick)
    large.select(_with_event(clicked), [asked], **quick)
    back.click(reply(upwards), [asked], **quick)
    hide.click(reply(hidden), [asked], **quick)
    show.click(reply(whole), [asked], **quick)
    make.click(made, [asked], **quick)
    return [classes, channels]


def _with_event(listener: Callable[..., dict[Any, Any]]) -> Callable[..., dict[Any, Any]]:
    """Gradio hands over what was clicked to an argument of this type."""

    def with_event(before: Asked, event: gr.SelectData) -> dict[Any, Any]:
        return listener(before, event)

    return with_event


def _gallery(label: str, name: str, columns: int = 6, height: int = 210) -> gr.Gallery:
    return gr.Gallery(
        label=label,
        elem_id=name,
        columns=columns,
        format="jpeg",  # several times faster to write than the default
        height=height,
        object_fit="contain",
        allow_preview=False,
        interactive=False,
        buttons=[],
    )


def _shown(options: Sequence[Option]) -> list[tuple[np.ndarray, str]]:
    return [(option.picture, option.caption) for option in options]


def _there(asked: Asked) -> View:
    if asked.view is None:
        raise BadInput("open a picture first.")
    return asked.view


def without_paths(text: str) -> str:
    """Returns a sentence in which absolute paths are cut down to their last part, for the page shows none."""
    return re.sub(r"(?<![\w.])(?:[A-Za-z]:)?[/\\](?:[^\s'\"/\\:;,]+[/\\])*(?=[^\s'\"/\\:;,]+)", "", text)


def _private_folder() -> Path:
    """A folder that nobody else may enter, for what the page keeps; it goes when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="tagseg-explorer-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    return folder


def _cache() -> str:
    """Where Gradio keeps files that it may hand out, and deletes after an hour."""
    from gradio.utils import get_upload_folder

    folder = Path(get_upload_folder())
    folder.mkdir(parents=True, exist_ok=True)
    return str(folder)
