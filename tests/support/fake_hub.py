"""A hub for tests: one model, served as huggingface_hub asks for it, with faults on demand.

Paths and headers as huggingface_hub 2.4 uses them: /api/models/<name>[/revision/<r>],
/api/models/<name>/tree/<commit>, /<name>/resolve/<r>/<file> with ETag, X-Repo-Commit and ranges.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

NAME = "some-org/some-model"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
_RANGE = re.compile(r"bytes=(\d+)-")


class FakeHub(ThreadingHTTPServer):
    """Serves the files of `folder`.

    token:     if set, what is asked without it is answered as the hub answers for private models.
    stall:     the file that is cut off in its middle: `stalls` times the connection just closes;
               with `stalls` below 0 it stays open without a word, and `stalled` is set.
    requests:  (method, file, first byte) of every file asked for.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.token: str | None = None
        self.stall, self.stalls = "", 0
        self.stalled, self.released = threading.Event(), threading.Event()
        self.requests: list[tuple[str, str, int]] = []

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that was killed is no news."""

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def fake_hub(folder: Path) -> Iterator[FakeHub]:
    server = FakeHub(folder)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = self.path.split("?")[0]
        if self.server.token and self.headers.get("Authorization") != f"Bearer {self.server.token}":
            return self._refuse(401, "RepoNotFound")
        if path.startswith(f"/api/models/{NAME}"):
            return self._metadata(path.removeprefix(f"/api/models/{NAME}").split("/")[1:])
        parts = path.removeprefix(f"/{NAME}/").split("/")
        if not path.startswith(f"/{NAME}/resolve/"):
            return self._refuse(404, "RepoNotFound")
        return self._file(parts[1], parts[2])

    def _metadata(self, words: list[str]) -> None:
        if words and words[1] not in ("main", COMMIT):
            return self._refuse(404, "RevisionNotFound")
        files = sorted(path for path in self.server.folder.iterdir() if path.is_file())
        if words[:1] == ["tree"]:
            rows: Any = [
                {"type": "file", "path": p.name, "size": p.stat().st_size, "oid": _etag(p)}
                for p in files
            ]
        else:
            siblings = [{"rfilename": p.name, "size": p.stat().st_size} for p in files]
            rows = {"id": NAME, "modelId": NAME, "sha": COMMIT, "siblings": siblings, "tags": []}
        content = json.dumps(rows).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _file(self, revision: str, name: str) -> None:
        path = self.server.folder / name
        if not path.is_file() or revision not in ("main", COMMIT):
            return self._refuse(404, "EntryNotFound")
        content = path.read_bytes()
        asked = _RANGE.match(self.headers.get("Range") or "")
        first = int(asked[1]) if asked else 0
        self.server.requests.append((self.command, name, first))
        self.send_response(206 if asked else 200)
        self.send_header("ETag", f'"{_etag(path)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        if asked:
            size = len(content)
            self.send_header("Content-Range", f"bytes {first}-{size - 1}/{size}")
        self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        if self.command == "HEAD":
            return
        if name == self.server.stall and self.server.stalls and first < len(content) // 2:
            self._break_off(content[first : len(content) // 2])
        else:
            self.wfile.write(content[first:])

    def _break_off(self, half: bytes) -> None:
        self.server.stalls -= 1
        self.wfile.write(half)
        self.wfile.flush()
        if self.server.stalls < 0:
            self.server.stalled.set()
            self.server.released.wait(60)
        self.close_connection = True

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


def _etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()
