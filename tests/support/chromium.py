"""Headless Chromium, driven over its DevTools pipe: no browser package is needed.

Commands and answers are JSON objects, each closed by a NUL byte, on file descriptors 3 and 4 of
the browser (--remote-debugging-pipe).
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
PATIENCE_S = 60.0  # only a hang ends here; a page answers in milliseconds


def find_chromium() -> str | None:
    """The browser's path, or None where none is installed."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One page of a headless browser; `messages` holds every event that it has sent."""

    def __init__(self, profile: Path, width: int = 1500, height: int = 1000) -> None:
        path = find_chromium()
        assert path is not None
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        words = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                 "--no-first-run", "--disable-background-networking", "--remote-debugging-pipe",
                 f"--user-data-dir={profile}", f"--window-size={width},{height}"]  # fmt: skip
        # A shell moves the pipes to 3 and 4, where the browser looks for them.
        moved = f'exec "$0" "$@" 3<&{theirs_in} 4>&{theirs_out}'
        self._process = subprocess.Popen(
            ["bash", "-c", moved, path, *words, "about:blank"],
            pass_fds=(theirs_in, theirs_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._buffer, self._last, self._session = b"", 0, ""
        self.messages: list[dict[str, Any]] = []
        targets = self.send("Target.getTargets")["targetInfos"]
        page = next(one["targetId"] for one in targets if one["type"] == "page")
        attached = self.send("Target.attachToTarget", targetId=page, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        os.close(self._out)  # the browser ends when its pipe does
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._in)

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], PATIENCE_S)
            assert ready, "the browser does not answer"
            read = os.read(self._in, 1 << 20)
            assert read, "the browser has ended"
            self._buffer += read
        line, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        return message

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of one DevTools command."""
        self._last += 1
        command = {"id": self._last, "method": method, "params": params}
        if self._session:
            command["sessionId"] = self._session
        os.write(self._out, json.dumps(command).encode() + b"\0")
        while True:
            message = self._receive()
            if message.get("id") != self._last:
                self.messages.append(message)
                continue
            assert "error" not in message, (method, message["error"])
            result: dict[str, Any] = message["result"]
            return result

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression in the page."""
        answer = self.send("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, script: str, wanted: Callable[[Any], bool] = bool) -> Any:
        """The value of `script` once it is as wanted."""
        end = time.monotonic() + PATIENCE_S
        while not wanted(value := self.run(script)):
            assert time.monotonic() < end, f"{script} stays {value!r}"
            time.sleep(0.02)
        return value

    def open(self, url: str) -> None:
        """Goes to `url` and waits until it is loaded."""
        seen = len(self.messages)
        if "loaderId" not in self.send("Page.navigate", url=url):
            return  # another place in the same document
        while not any(m["method"] == "Page.loadEventFired" for m in self.messages[seen:]):
            self.messages.append(self._receive())

    def resize(self, width: int, height: int) -> None:
        """Sets the size of the view in CSS pixels."""
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip

    def screenshot(self, path: Path) -> None:
        """Writes what the page shows as PNG."""
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot")["data"]))

    def requested(self) -> list[str]:
        """Every address that the page asked for."""
        sent = [m for m in self.messages if m["method"] == "Network.requestWillBeSent"]
        return [message["params"]["request"]["url"] for message in sent]

    def complaints(self) -> list[dict[str, Any]]:
        """Exceptions and errors that the console shows."""
        return [
            m["params"]
            for m in self.messages
            if m["method"] == "Runtime.exceptionThrown"
            or (m["method"] == "Log.entryAdded" and m["params"]["entry"]["level"] == "error")
        ]
