"""Who may talk to the server: checked before anything else is read of a request.

A server on this machine alone still hears every page that a browser here shows, under any name
that a stranger's DNS lets point here: so Host and Origin must be our own.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from dougong.server.chat_reply import error_object

LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Gate:
    """Lets requests through to `app` that name one of `hosts` (None: any) and know `key` (if any).

    Every path is behind it, the unknown ones too.
    """

    def __init__(
        self, app: ASGIApp, *, hosts: Collection[str] | None, key: str | None = None
    ) -> None:
        self._app, self._hosts = app, hosts
        self._key = None if key is None else key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers what may not pass with 401 or 403."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        elif (refusal := self._refusal(Headers(scope=scope))) is not None:
            status, message = refusal
            response = JSONResponse(error_object(message, "authentication_error"), status)
            await response(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _refusal(self, headers: Headers) -> tuple[int, str] | None:
        """Status and reason, or None."""
        if self._hosts is not None:
            if _host_of(f"//{headers.get('host', '')}") not in self._hosts:
                return 403, f"this server answers to {', '.join(self._hosts)} only; use that host."
            origin = headers.get("origin")
            if origin is not None and _host_of(origin) not in self._hosts:
                return 403, "web pages from elsewhere may not use this server."
        if self._key is not None:
            kind, _, token = headers.get("authorization", "").partition(" ")
            given = token.strip().encode("utf-8", errors="replace")
            if not hmac.compare_digest(given, self._key) or kind.lower() != "bearer":
                return 401, "the API key is missing or wrong; send Authorization: Bearer KEY."
        return None


def _host_of(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
