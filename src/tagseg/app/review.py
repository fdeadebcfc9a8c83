"""Looking through the pseudo-masks of a run and mending them, on a page that this machine alone is shown.

What a person draws is written into the run at once, as the pseudo-mask; the next `tagseg fit` keeps it, learns it, and
counts it apart. What lay there before is kept in `review/before`.
"""

from __future__ import annotations

import json
import shutil
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
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
from tagseg.pipeline.run_folder import STAGE, lock_run
from tagseg.progress import Reporter

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
        labels = "relabel" if (run / "relabel" / STAGE).is_file() else "masks"
        for stage in (labels, "segment"):
            if not _finished(run / stage / STAGE):
                raise BadInput(f"{run}: the run has not come to its network yet; let 'tagseg fit' go on first.")
        root = Path(str(read_json(run / RUN_MARKER)["data"]))
        if not root.is_dir():
            raise BadInput(f"{root}: the data set of this run is no longer there; put it back.")
        self._lock = lock_run(run)
        self.run, self.data, self.place = run, read_dataset(root), MaskFolder(run / labels)
        self.samples = [s for s in self.data.train if self.place(s).is_file()]
        self.doubts = _remembered(run, labels, self.samples, reporter)
        self.order = sorted(range(len(self.samples)), key=lambda n: -self.doubts[n].score)
        kept = run / FOLDER / DECISIONS
        self.decisions: dict[str, str] = read_json(kept) if kept.is_file() else {}

    def listed(self) -> dict[str, Any]:
        """Returns what the page shows: class names and colours, and the photographs, the most doubtful first."""
        photographs = []
        for number in self.order:
            sample, doubt = self.samples[number], self.doubts[number]
            photographs.append(
                {
                    "number": number,
                    "name": sample.name,
                    "tags": [tag + 1 for tag in sample.tags],
                    "doubt": round(doubt.score, 2),
                    "why": self._why(doubt),
                    "state": self.decisions.get(sample.name, "open"),
                }
            )
        colours = [colour.tolist() for colour in voc_palette()]
        return {"classes": ["background", *self.data.classes], "colours": colours, "photographs": photographs}

    def _why(self, doubt: Doubt) -> str:
        parts = [f"mask and network differ on {100 * doubt.disagreement:.0f} %"]
        if doubt.tag is not None:
            parts.append(f"the classifier gives '{self.data.classes[doubt.tag]}' {100 * (1 - doubt.denied):.0f} %")
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
        wrong = mask[(mask > len(self.data.classes)) & (mask != IGNORE)]
        if wrong.size:
            raise BadInput(f"{sample.name}: there is no class {wrong[0]}.")
        return self._write(sample, mask, "corrected")

    def decide(self, number: int, state: str) -> str:
        """Remembers what a person thinks of a mask, and returns its state.

        "accepted" leaves it as it is, "rejected" makes every pixel unknown, so that nothing is learnt of the
        photograph, and "open" puts back what the run had made.

        Raises:
            BadInput: there is no such state.
        """
        sample = self.samples[number]
        if state == "rejected":
            return self._write(sample, np.full_like(self.mask(number), IGNORE), state)
        if state == "open":
            kept = self._before(sample)
            if kept.is_file():
                with write_aside(self.place(sample)) as aside:
                    shutil.copyfile(kept, aside)
                kept.unlink()
        elif state != "accepted":
            raise BadInput(f"'{state}': known are {', '.join(STATES)}.")
        elif self.decisions.get(sample.name) == "corrected":
            return "corrected"
        return self._remember(sample, state)

    def _before(self, sample: Sample) -> Path:
        return self.run / FOLDER / "before" / f"{sample.name}.png"

    def _write(self, sample: Sample, mask: np.ndarray, state: str) -> str:
        kept, place = self._before(sample), self.place(sample)
        if not kept.is_file():  # what the run has made is kept, once
            with write_aside(kept) as aside:
                shutil.copyfile(place, aside)
        write_mask(place, mask)
        return self._remember(sample, state)

    def _remember(self, sample: Sample, state: str) -> str:
        self.decisions[sample.name] = state
        write_json(self.run / FOLDER / DECISIONS, self.decisions)
        return state


def _finished(stage: Path) -> bool:
    with suppress(OSError, ValueError, KeyError, TypeError):
        return bool(read_json(stage)["finished"])
    return False


def _remembered(run: Path, labels: str, samples: list[Sample], reporter: Reporter) -> list[Doubt]:
    """The doubts, as they were found before, or found now; a network that has learnt anew has new ones."""
    kept = run / FOLDER / DOUBTS
    key = [file_digest(run / "segment" / "model.safetensors"), len(samples)]
    with suppress(OSError, ValueError, KeyError, TypeError):
        said = read_json(kept)
        if said["key"] == key:
            return [Doubt(**doubt) for doubt in said["doubts"]]
    from tagseg.segmentation.model import load

    with reporter.bar("doubts", len(samples), "photographs") as advance:
        found = doubts(load(run), samples, MaskFolder(run / labels), MapStore(run / "mine"), advance)
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

    raw = "application/octet-stream"
    routes = [
        Route("/", start),
        Route("/list", listed),
        Route("/photo/{number:int}", bytes_of("image/jpeg", review.photo)),
        Route("/mask/{number:int}", bytes_of(raw, lambda n: review.mask(n).astype(np.uint8).tobytes())),
        Route("/pieces/{number:int}", bytes_of(raw, lambda n: review.pieces(n).astype("<u2").tobytes())),
        Route("/mask/{number:int}", correct, methods=["POST"]),
        Route("/state/{number:int}", decide, methods=["POST"]),
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
            listening.bind(("127.0.0.1", number))
            listening.listen()  # who asks before the server has started waits
            return listening
        except OSError as error:
            listening.close()
            if port is not None:
                raise BadInput(
                    f"port {port} is taken or not allowed ({brief(error)}); choose another with --port."
                ) from error
    raise BadInput(f"no port from {FIRST_PORT} on is free; choose one with --port.")
