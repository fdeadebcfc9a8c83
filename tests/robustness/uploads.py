"""Hostile requests to the explorer: whatever is sent, it is refused or told in a sentence, and the page goes on.

    python -m tests.robustness.uploads

Starts `tagseg app`, sends files that are no pictures, that grow a thousandfold, that lie about their names; requests of
other sites; paths that lead elsewhere; more than is kept; and stops it. Prints tried / clean / wrong, what memory the
server took at most, and exits with 1 if something is wrong. Needs `tagseg[app]`.
"""

import http.client
import io
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from tests.robustness import tell

MEMORY = 800  # MB that hostile requests may add to what an ordinary picture takes


def picture(kind: str = "JPEG", side: int = 64, **more: Any) -> bytes:
    """A picture of noise."""
    packed = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)).save(
        packed, format=kind, **more
    )
    return packed.getvalue()


def grown(side: int) -> bytes:
    """A PNG of a few kilobytes that has `side` by `side` white pixels, with an orientation behind them."""
    packed = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("1", (side, side), 1).save(packed, format="PNG", exif=exif, optimize=True)
    return packed.getvalue()


def hostile() -> dict[str, tuple[str, bytes]]:
    """Files by what they are: name and content."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "x" * 60_000
    whole = picture()
    return {
        "no bytes": ("a.jpg", b""),
        "text": ("a.jpg", b"not a picture"),
        "a web page": ("a.html", b"<script>alert(1)</script>"),
        "a drawing that asks for others": ("a.svg", b'<svg xmlns="http://www.w3.org/2000/svg"><script/></svg>'),
        "PostScript": ("a.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%id) (r) file\n"),
        "a header of a gigapixel": ("a.png", grown(64)[:16] + b"\x00\x00\x80\x00\x00\x00\x80\x00" + grown(64)[24:]),
        "a picture that grows to 100 megapixels": ("a.png", grown(10_000)),
        "a picture that is cut off": ("a.jpg", whole[: len(whole) // 2]),
        "a long description": ("a.jpg", picture(exif=exif)),
        "a picture of 21 MB": ("a.bmp", picture("BMP", 2700)),
        "a name that leads elsewhere": ("../../../tmp/odd.jpg", whole),
        "a name of lines and letters": ("a\u202e\u00e9.jpg", whole),
        "a name of 300 signs": ("n" * 300 + ".jpg", whole),
        "a packed bomb": ("a.png", zlib.compress(bytes(50_000_000))),
    }


def request(
    address: str, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
) -> tuple[int, str]:
    """Status and text of one answer."""
    parts = urlsplit(address)
    assert parts.hostname is not None
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=120)
    try:
        connection.request(method, path, body=body, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read().decode("utf-8", "replace")
    finally:
        connection.close()


def upload(address: str, name: str, content: bytes, headers: dict[str, str] | None = None) -> tuple[int, str]:
    """Status and text of the answer to an upload."""
    mark = b"----tagseg"
    said = name.encode("utf-8").replace(b'"', b"")
    body = (
        b"--" + mark + b'\r\nContent-Disposition: form-data; name="files"; filename="' + said + b'"\r\n'
        b"Content-Type: application/octet-stream\r\n\r\n" + content + b"\r\n--" + mark + b"--\r\n"
    )
    kind = {"Content-Type": f"multipart/form-data; boundary={mark.decode()}"}
    return request(address, "POST", "/gradio_api/upload", body, kind | (headers or {}))


def opened(client: Any, path: str, model: str) -> str:
    """What the page says when a file of its own folder, or any path, is opened as a picture."""
    from gradio_client import FileData

    try:
        answer = client.predict(FileData(path=path, meta={"_type": "gradio.FileData"}), model, api_name="/listener")
    except Exception as error:
        return f"refused: {error}"
    return str(answer[0] if isinstance(answer, tuple | list) else answer)


def memory(process: "subprocess.Popen[str]") -> float:
    """The most memory that a process took so far, in MB."""
    said = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
    found = re.search(r"VmHWM:\s+(\d+)", said)
    assert found is not None
    return int(found[1]) / 1024


def try_all(address: str, process: "subprocess.Popen[str]", model: str) -> tuple[int, list[str], float]:
    """How many requests were tried, what went wrong, and what memory was added in MB."""
    import json

    from gradio_client import Client

    client = Client(address, verbose=False)
    wrong: list[str] = []
    tried = 0

    def note(what: str, right: bool, said: str) -> None:
        nonlocal tried
        tried += 1
        if not right or re.search(r"(?<![\w.])/(?:tmp|root|home|work)/\w", said) or "Traceback" in said:
            wrong.append(f"{what}: {said[:200]}")

    status, said = upload(address, "good.jpg", picture())
    good = json.loads(said)[0]
    assert "refused" not in opened(client, good, model), "an ordinary picture must be opened"
    before = memory(process)
    for what, (name, content) in hostile().items():
        status, said = upload(address, name, content)
        if status == 200:
            kept = json.loads(said)[0]
            inside = Path(kept).resolve().is_relative_to(Path(good).resolve().parent.parent)
            note(f"{what}, uploaded", inside, "" if inside else f"kept at {kept}")
            note(f"{what}, opened", True, opened(client, kept, model))
        else:
            note(f"{what}, uploaded", status in (400, 413, 422, 500), said)
    for path in (
        "/etc/passwd",
        good + "/../../../../../etc/passwd",
        str(Path(__file__).resolve()),
        "http://127.0.0.1:1/",
    ):
        said = opened(client, path, model)
        note(f"the path {path[-20:]}", "root:" not in said, said.replace(path, "PATH"))
        status, said = request(address, "GET", f"/gradio_api/file={path}")
        note(
            f"the file {path[-20:]}", status in (400, 403, 404, 405) and "root:" not in said, said.replace(path, "PATH")
        )
    for headers in (
        {"Host": "evil.example"}, {"Host": "127.0.0.1.evil.example"}, {"Origin": "http://evil.example"},
        {"Origin": "null"}, {"Host": "localhost:1", "Origin": "http://localhost:1"}, {"Host": ""},
    ):  # fmt: skip
        expected = 200 if headers.get("Host") == "localhost:1" else 403
        for what, (status, said) in (
            ("the page", request(address, "GET", "/", headers=headers)),
            ("an upload", upload(address, "a.jpg", picture(), headers)),
        ):
            note(f"{what} with {headers}", status == expected, "" if status == expected else f"{status} {said}")
    large, refused = picture("BMP", 2500), 0  # 18.75 MB
    for number in range(62):  # none like the other, for equal ones are kept once
        status, said = upload(address, "a.bmp", large + str(number).encode())
        refused += status == 413
    note("more than is kept", refused > 0, f"{refused} of 62 uploads refused")
    status, said = request(address, "GET", "/")
    note("the page afterwards", status == 200, said if status != 200 else "")
    return tried, wrong, memory(process) - before


def started(images: Path, process: Callable[..., Any] = subprocess.Popen) -> tuple[Any, str]:
    """A server, and its address."""
    command = [sys.executable, "-m", "tagseg.cli", "app", "--model", "timm:test_resnet", "--weights", "random"]
    server = process(
        [*command, "--side", "64", "--images", str(images)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    found = re.search(r"http://\S+", server.stdout.readline())
    assert found is not None
    return server, found[0]


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        os.environ["TMPDIR"] = name
        (Path(name) / "images").mkdir()
        (Path(name) / "images" / "a.jpg").write_bytes(picture())
        server, address = started(Path(name) / "images")
        try:
            tried, wrong, added = try_all(address, server, "timm:test_resnet")
        finally:
            begun = time.perf_counter()
            server.send_signal(signal.SIGTERM)
            code = server.wait(60)
        seconds = time.perf_counter() - begun
        left = [p.name for p in Path(name).glob("tagseg-explorer-*")]
    tried += 2
    if left:
        wrong.append(f"left behind: {left}")
    if added > MEMORY:
        wrong.append(f"{added:.0f} MB of memory added")
    print(f"memory added {added:.0f} MB; stopped by SIGTERM in {seconds:.1f} s with exit code {code}")
    tell("hostile requests", tried, wrong)


if __name__ == "__main__":
    main()
