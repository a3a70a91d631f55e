"""Runs the application on a socket until a signal ends it."""

from __future__ import annotations

import socket
import threading
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from dougong.api_engine import Engine

GRACE_S = 3  # for answers that are being written when the signal comes
MAX_CONNECTIONS = 4096


class Server(uvicorn.Server):
    """Ends the engine a little after the signal, so that every request still gets its reply."""

    def __init__(self, app: ASGIApp, engine: Engine) -> None:
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False,
            timeout_graceful_shutdown=2 * GRACE_S, limit_concurrency=MAX_CONNECTIONS,
        )  # fmt: skip
        super().__init__(config)
        self._closing = threading.Timer(GRACE_S, engine.close)
        self._closing.daemon = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The signal: no new connections; a second interrupt waits for nobody."""
        if not self.should_exit:
            self._closing.start()
        super().handle_exit(sig, frame)


def serve(app: ASGIApp, engine: Engine, listening: socket.socket) -> None:
    """Answers on the socket until a signal comes, which is raised again at the end."""
    Server(app, engine).run(sockets=[listening])
