"""Looking through the pseudo-masks of a run and mending them, on a page that this machine alone is shown.

What a person draws is written into the run at once, as the pseudo-mask; the next `tagseg fit` keeps it, learns it, and
counts it apart. What the run had made is kept in `review/before`, and what was drawn and then taken away in
`review/drawn`. Tags that a person changes are kept in `review/tags.json`; the next fit learns from them, and the data
set stays as it is.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tagseg.app.doubt import Doubt, doubts
from tagseg.app.guard import Guard
from tagseg.data.dataset import MaskFolder, Sample
from tagseg.data.images import read_image, read_index_png, voc_palette, write_mask
from tagseg.data.map_store import MapStore
from tagseg.data.reading import read_dataset
from tagseg.errors import BadInput, brief
from tagseg.files import RUN_MARKER, file_digest, read_json, write_aside, write_json
from tagseg.labels import IGNORE
from tagseg.masks.superpixels import superpixels
from tagseg.pipeline.photographs import changed_tags, retagged, write_changed_tags
from tagseg.pipeline.run_folder import STAGE, data_of, is_finished, labels_of, lock_run
from tagseg.progress import Reporter
from tagseg.segmentation.saved import DESCRIPTION

FOLDER, DOUBTS, DECISIONS = "review", "doubt.json", "decisions.json"
STATES = ("open", "accepted", "corrected", "rejected")
PIECES = 400  # superpixels to a photograph
QUALITY = 92  # of the JPEG that is shown
FIRST_PORT = 7860


class Review:
    """The pseudo-masks of a run and what a person has decided of each.

    Args:
        run: the folder of a run that has come to its segmentation network.
        reporter: shows how far the doubts are, which are computed once.

    Raises:
        BadInput: there is no such run, its data set is gone, or another process is at work on it.
    """

    def __init__(self, run: Path, reporter: Reporter) -> None:
        if not (run / RUN_MARKER).is_file():
            raise BadInput(f"{run}: this is no folder of a run; give the one that 'tagseg fit' has written.")
        labels = labels_of(run)
        if labels is None or not is_finished(run / "segment"):
            raise BadInput(f"{run}: the run has not come to its network yet; let 'tagseg fit' go on first.")
        if read_json(run / "segment" / STAGE)["inputs"].get("source") == "method":
            raise BadInput(
                f"{run}: the network of this run learns from no pseudo-masks, but while its method sees the tags; with "
                "--set segment.source=masks another one would learn from these."
            )
        given = read_dataset(root := data_of(run, "put it back"), read_json(run / RUN_MARKER).get("tags", "xml"))
        data, self.tags = retagged(given, changed := changed_tags(run)), changed
        self.classes = tuple(read_json(run / "segment" / DESCRIPTION)["classes"])
        if data.classes != self.classes:
            raise BadInput(f"{root}: the classes are others than those of {run}; let 'tagseg fit' go on there first.")
        self._lock, self._one = lock_run(run), threading.Lock()
        self.run, self.place = run, MaskFolder(labels)
        self.given = {sample.name: tuple(data.tag_names(sample)) for sample in given.train}
        self.samples = [s for s in data.train if self.place(s).is_file()]
        self.doubts = _remembered(run, self.place, self.samples, reporter)
        self.order = sorted(range(len(self.samples)), key=lambda n: -self.doubts[n].score)
        self.decisions = self._decided()

    def close(self) -> None:
        """Lets others work on the run."""
        if self._lock is not None:
            self._lock.close()

    def _decided(self) -> dict[str, dict[str, str]]:
        """What was decided before, of masks that are as they were then; a run that has made others is asked anew."""
        try:
            said = read_json(self.run / FOLDER / DECISIONS)
            known = {sample.name: sample for sample in self.samples}
            return {
                name: {key: str(value) for key, value in told.items()}
                for name, told in said.items()
                if name in known and told["state"] in STATES and file_digest(self.place(known[name])) == told["mask"]
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}

    def state(self, sample: Sample) -> str:
        """Returns one of `STATES`."""
        return self.decisions.get(sample.name, {}).get("state", "open")

    def listed(self) -> dict[str, Any]:
        """Returns what the page shows: class names and colours, and the photographs, the most doubtful first."""
        photographs = []
        for number in self.order:
            sample, doubt = self.samples[number], self.doubts[number]
            photographs.append(
                {
                    "number": number,
                    "name": sample.name,
                    **self.tagged(number),
                    "doubt": round(doubt.score, 2),
                    "why": self._why(doubt),
                    "state": self.state(sample),
                }
            )
        colours = [colour.tolist() for colour in voc_palette()]
        return {"classes": ["background", *self.classes], "colours": colours, "photographs": photographs}

    def tagged(self, number: int) -> dict[str, Any]:
        """Returns the tags of a photograph, as numbers of classes in masks, and whether a person has changed them."""
        sample = self.samples[number]
        return {"tags": [tag + 1 for tag in sample.tags], "retagged": sample.name in self.tags}

    def _why(self, doubt: Doubt) -> str:
        parts = [f"mask and network differ on {100 * doubt.disagreement:.0f} %"]
        if doubt.tag is not None:
            parts.append(f"the classifier gives '{self.classes[doubt.tag]}' {100 * (1 - doubt.denied):.0f} %")
        return "; ".join([*parts, f"entropy {100 * doubt.entropy:.0f} %"])

    def photo(self, number: int) -> bytes:
        """Returns a photograph, upright, as JPEG."""
        stream = BytesIO()
        Image.fromarray(read_image(self.samples[number].image)).save(stream, format="JPEG", quality=QUALITY)
        return stream.getvalue()

    def mask(self, number: int) -> np.ndarray:
        """Returns the pseudo-mask of a photograph as it is now, `(H, W)` uint8."""
        return read_index_png(self.place(self.samples[number]))

    def pieces(self, number: int) -> np.ndarray:
        """Returns the superpixels of a photograph, `(H, W)` uint16."""
        return superpixels(read_image(self.samples[number].image), PIECES).astype(np.uint16)

    def correct(self, number: int, values: bytes) -> str:
        """Writes what a person has drawn as the pseudo-mask of a photograph, and returns its state.

        Args:
            number: of the photograph.
            values: the numbers of its pixels, row by row.

        Raises:
            BadInput: they are not as many as it has pixels, or no numbers of its classes.
        """
        sample, before = self.samples[number], self.mask(number)
        if len(values) != before.size:
            raise BadInput(f"{sample.name}: {len(values)} values for {before.size} pixels; load the page again.")
        mask = np.frombuffer(values, dtype=np.uint8).reshape(before.shape)
        wrong = mask[(mask > len(self.classes)) & (mask != IGNORE)]
        if wrong.size:
            raise BadInput(f"{sample.name}: there is no class {wrong[0]}.")
        with self._one:
            self._keep(sample)
            write_mask(self.place(sample), mask)
            return self._remember(sample, "corrected")

    def decide(self, number: int, state: str) -> str:
        """Does what a person wants with a mask, and returns its state.

        "accepted" leaves it as it is, or puts back what was there before it was rejected; "rejected" makes every pixel
        unknown, so that nothing is learnt of the photograph; "open" puts back what the run had made, and "corrected"
        what was drawn last.

        Raises:
            BadInput: there is no such state, or nothing was drawn.
        """
        sample = self.samples[number]
        if state not in STATES:
            raise BadInput(f"'{state}': known are {', '.join(STATES)}.")
        with self._one:
            now, drawn = self.state(sample), self._aside(sample, "drawn").is_file()
            if state == "accepted" and now == "rejected":
                now = self.decisions[sample.name].get("was", "open")
                self._put_back(sample, "corrected" if now == "corrected" else "open")
            if state == "accepted":
                return self._remember(sample, "corrected" if now == "corrected" else "accepted")
            if state == "rejected":
                self._keep(sample)
                write_mask(self.place(sample), np.full_like(self.mask(number), IGNORE))
                was = self.decisions[sample.name].get("was", "") if now == state else now
                return self._remember(sample, state, was)
            if state == "corrected" and not drawn and now != "corrected":
                raise BadInput(f"{sample.name}: nothing was drawn in it.")
            if state != now:
                self._keep(sample)
                self._put_back(sample, state)
            return self._remember(sample, state)

    def retag(self, number: int, tags: Sequence[int]) -> list[int]:
        """Gives a photograph other tags, which the next fit learns in place of those of the data set.

        Args:
            number: of the photograph.
            tags: the numbers of its classes in masks; those of the data set take the change back.

        Returns:
            its tags, ascending.

        Raises:
            BadInput: one of them is no class.
        """
        sample, numbers = self.samples[number], sorted(set(tags))
        wrong = next((tag for tag in numbers if not 1 <= tag <= len(self.classes)), None)
        if wrong is not None:
            raise BadInput(f"{sample.name}: there is no class {wrong}.")
        names = tuple(self.classes[tag - 1] for tag in numbers)
        with self._one:
            changed = {name: tags for name, tags in self.tags.items() if name != sample.name}
            if names != self.given[sample.name]:
                changed[sample.name] = names
            write_changed_tags(self.run, changed)
            self.tags = changed
            self.samples[number] = replace(sample, tags=tuple(tag - 1 for tag in numbers))
        return numbers

    def _aside(self, sample: Sample, what: str) -> Path:
        return self.run / FOLDER / what / f"{sample.name}.png"

    def _keep(self, sample: Sample) -> None:
        """Keeps what will be written over: what the run has made, or what was drawn."""
        what = {"corrected": "drawn", "rejected": None}.get(self.state(sample), "before")
        if what is not None:
            with write_aside(self._aside(sample, what)) as aside:
                shutil.copyfile(self.place(sample), aside)

    def _put_back(self, sample: Sample, state: str) -> None:
        """Puts back what the run had made ("open"), or what was drawn ("corrected")."""
        kept = self._aside(sample, "drawn" if state == "corrected" else "before")
        if kept.is_file():
            with write_aside(self.place(sample)) as aside:
                shutil.copyfile(kept, aside)

    def _remember(self, sample: Sample, state: str, was: str = "") -> str:
        told = {"state": state, "mask": file_digest(self.place(sample))}
        self.decisions[sample.name] = {**told, "was": was} if was else told  # before it was rejected
        write_json(self.run / FOLDER / DECISIONS, self.decisions)
        return state


def _remembered(run: Path, place: MaskFolder, samples: list[Sample], reporter: Reporter) -> list[Doubt]:
    """The doubts, as they were found before, or found now; a network that has learnt anew has new ones."""
    kept = run / FOLDER / DOUBTS
    key = [file_digest(run / "segment" / "model.safetensors"), len(samples)]
    with suppress(OSError, ValueError, KeyError, TypeError):
        said = read_json(kept)
        if said["key"] == key:
            return [Doubt(**doubt) for doubt in said["doubts"]]
    from tagseg.segmentation.model import load

    with reporter.bar("doubts", len(samples), "photographs") as advance:
        found = doubts(load(run), samples, place, MapStore(run / "mine"), advance)
    write_json(kept, {"key": key, "doubts": [asdict(doubt) for doubt in found]})
    return found


def application(review: Review) -> Guard:
    """Returns the ASGI application of the page."""
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import Request
    from starlette.responses import HTMLResponse, JSONResponse, Response
    from starlette.routing import Route

    page = files("tagseg.app").joinpath("review.html").read_text(encoding="utf-8")

    async def start(_: Request) -> Response:
        return HTMLResponse(page)

    async def listed(_: Request) -> Response:
        return JSONResponse(review.listed())

    def bytes_of(kind: str, made: Callable[[int], bytes]) -> Callable[[Request], Any]:
        async def answer(request: Request) -> Response:
            return await answered(lambda: Response(made(number_in(request)), media_type=kind))

        return answer

    def number_in(request: Request) -> int:
        number = int(request.path_params["number"])
        if number >= len(review.samples):
            raise BadInput("there is no such photograph; load the page again.")
        return number

    async def answered(made: Callable[[], Response]) -> Response:
        try:
            return await run_in_threadpool(made)
        except BadInput as error:
            return JSONResponse({"error": str(error)}, status_code=400)

    async def correct(request: Request) -> Response:
        body = await request.body()
        return await answered(lambda: JSONResponse({"state": review.correct(number_in(request), body)}))

    async def decide(request: Request) -> Response:
        try:
            state = str(json.loads(await request.body())["state"])
        except (ValueError, KeyError, TypeError):
            return JSONResponse({"error": "say a state."}, status_code=400)
        return await answered(lambda: JSONResponse({"state": review.decide(number_in(request), state)}))

    async def retag(request: Request) -> Response:
        try:
            tags = json.loads(await request.body())["tags"]
            if not isinstance(tags, list) or any(type(tag) is not int for tag in tags):
                raise TypeError
        except (ValueError, KeyError, TypeError):
            return JSONResponse({"error": "say tags, as numbers of classes."}, status_code=400)

        def change() -> Response:
            review.retag(number := number_in(request), tags)
            return JSONResponse(review.tagged(number))

        return await answered(change)

    raw = "application/octet-stream"
    routes = [
        Route("/", start),
        Route("/list", listed),
        Route("/photo/{number:int}", bytes_of("image/jpeg", review.photo)),
        Route("/mask/{number:int}", bytes_of(raw, lambda n: review.mask(n).astype(np.uint8).tobytes())),
        Route("/pieces/{number:int}", bytes_of(raw, lambda n: review.pieces(n).astype("<u2").tobytes())),
        Route("/mask/{number:int}", correct, methods=["POST"]),
        Route("/state/{number:int}", decide, methods=["POST"]),
        Route("/tags/{number:int}", retag, methods=["POST"]),
    ]
    return Guard(Starlette(routes=routes), review.run / FOLDER)


def serve(review: Review, *, port: int | None, block: bool) -> str:
    """Serves the page; see `tagseg.review`."""
    import uvicorn

    listening = _listen(port)
    server = uvicorn.Server(uvicorn.Config(application(review), log_level="warning", lifespan="off"))
    address = f"http://127.0.0.1:{listening.getsockname()[1]}/"
    if block:
        print(f"review  {address}  (stop it with Ctrl-C, then run tagseg fit again)", flush=True)
        server.run(sockets=[listening])
    else:
        threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True).start()
    return address


def _listen(port: int | None) -> socket.socket:
    """A socket of this machine only, at the port that is given or the first free one."""
    for number in range(FIRST_PORT, FIRST_PORT + 100) if port is None else (port,):
        listening = socket.socket()
        try:
            if os.name == "posix":  # a page that was open on this port a moment ago is no reason to refuse it
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(("127.0.0.1", number))
            listening.listen()  # who asks before the server has started waits
            return listening
        except (OSError, OverflowError) as error:
            listening.close()
            if port is not None:
                raise BadInput(
                    f"port {port} is taken or not allowed ({brief(error)}); choose another with --port."
                ) from error
    raise BadInput(f"no port from {FIRST_PORT} on is free; choose one with --port.")
