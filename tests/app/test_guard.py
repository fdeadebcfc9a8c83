"""Who is answered by the explorer's server."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tagseg.app import guard as module
from tagseg.app.guard import Guard


def status(folder: Path, headers: dict[str, str], path: str = "/", method: str = "GET", kind: str = "http") -> Any:
    """The status of the answer to a request; 200 is what the application behind says."""
    sent: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    given = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": kind, "headers": given, "path": path, "method": method}
    asyncio.run(Guard(app, folder)(scope, None, send))  # type: ignore[arg-type]
    return sent[0].get("status", sent[0]["type"])


@pytest.mark.parametrize(
    ("host", "origin", "expected"),
    [
        ("127.0.0.1:7860", None, 200),
        ("localhost:7860", "http://localhost:7860", 200),
        ("[::1]:7860", "http://[::1]:7860", 200),
        ("evil.example:7860", None, 403),
        ("127.0.0.1.evil.example", None, 403),
        ("", None, 403),
        ("127.0.0.1:7860", "http://evil.example", 403),
        ("127.0.0.1:7860", "http://127.0.0.1:9999", 403),
        ("127.0.0.1:7860", "http://localhost:7860", 403),
        ("127.0.0.1:7860", "null", 403),
        ("127.0.0.1:odd", None, 403),
    ],
)
def test_only_the_page_itself_is_answered(tmp_path: Path, host: str, origin: str | None, expected: int):
    headers = {"Host": host, **({} if origin is None else {"Origin": origin})}
    assert status(tmp_path, headers) == expected
    if expected == 403:
        assert status(tmp_path, headers, kind="websocket") == "websocket.close"


def test_uploads_are_bounded_in_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "MAX_STORED", 100)
    here = {"host": "127.0.0.1:1"}
    assert status(tmp_path, here, "/gradio_api/upload", "POST") == 200
    (tmp_path / "picture.png").write_bytes(bytes(101))
    assert status(tmp_path, here, "/gradio_api/upload", "POST") == 413
    assert status(tmp_path, here, "/gradio_api/queue/join", "POST") == 200
