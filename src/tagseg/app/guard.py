"""What stands before the explorer's server: only pages of this machine are answered, and uploads are bounded in all.

A browser that shows any other site can send requests to this machine too. Such a request names the site as its
`Origin`, or, where the site's name was made to lead here, as its `Host`; both are refused.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

HOSTS = ("127.0.0.1", "localhost", "::1")
MAX_STORED = 1 << 30  # bytes of all files that are kept for the page; more uploads are refused until some are deleted

Scope = MutableMapping[str, Any]
App = Callable[[Scope, Callable[..., Awaitable[Any]], Callable[..., Awaitable[Any]]], Awaitable[None]]


class Guard:
    """An ASGI application that lets through what comes from this machine's own pages.

    Args:
        app: the application behind it.
        folder: where uploads are kept.
    """

    def __init__(self, app: App, folder: Path) -> None:
        self.app, self.folder = app, folder

    async def __call__(self, scope: Scope, receive: Callable[..., Any], send: Callable[..., Any]) -> None:
        """Answers a request, or refuses it."""
        refusal = self._refusal(scope) if scope["type"] in ("http", "websocket") else None
        if refusal is None:
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            status, words = refusal
            headers = [(b"content-type", b"text/plain; charset=utf-8")]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": words.encode()})

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers = {name.lower(): value.decode("latin-1") for name, value in scope.get("headers", ())}
        host = _address(f"//{headers.get(b'host', '')}")
        if host[0] not in HOSTS:
            return 403, "this server answers only to the name of this machine itself."
        origin = headers.get(b"origin")
        if origin is not None and _address(origin) != host:
            return 403, "this server answers only its own page."
        if scope["type"] == "http" and scope.get("method") == "POST" and scope["path"].rstrip("/").endswith("/upload"):
            stored = sum(f.stat().st_size for f in self.folder.rglob("*") if f.is_file())
            if stored > MAX_STORED:
                return 413, "too many pictures are kept; they are deleted after an hour, or start the explorer again."
        return None


def _address(url: str) -> tuple[str | None, int | None]:
    """Host and port."""
    try:
        parts = urlsplit(url)
        return parts.hostname, parts.port
    except ValueError:
        return None, None
