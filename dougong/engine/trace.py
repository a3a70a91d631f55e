"""What happened when, for a browser's trace viewer (Perfetto, about:tracing); no torch.

Written as it happens, one event a line, so that a run that was killed has left all but its last
words. Source: Google's "Trace Event Format", the JSON array form, whose closing bracket may be
missing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from dougong.errors import InputError

PROCESS, STEPS = 1, 1  # what the viewer calls process and thread


class Trace:
    """A file of events; moments are seconds of any one clock. For one thread.

    `fault`: why it ends early, if it does; a full disk is no reason to stop what is being traced.
    Raises InputError if the file cannot be made.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._file = path.open("w", encoding="utf-8")
        except OSError as problem:
            raise InputError(
                f"{path}: the trace cannot be written there ({problem.strerror}); "
                "name a file in a folder that exists."
            ) from None
        self.fault: str | None = None
        self._path, self._phases = path, dict[int, str]()
        self._say("[\n")
        self._separator = ""
        self._write("M", "process_name", 0.0, tid=STEPS, args={"name": "dougong engine"})
        self._write("M", "thread_name", 0.0, tid=STEPS, args={"name": "steps"})

    def span(self, name: str, low_s: float, high_s: float, args: Mapping[str, int]) -> None:
        """Something that took from `low_s` to `high_s`."""
        duration_us = (high_s - low_s) * 1e6
        self._write("X", name, low_s, dur=duration_us, tid=STEPS, args=dict(args))

    def counts(self, name: str, at_s: float, values: Mapping[str, float]) -> None:
        """Values that go up and down, drawn as a curve."""
        self._write("C", name, at_s, tid=STEPS, args=dict(values))

    def phase(self, request: int, name: str | None, at_s: float) -> None:
        """A request is in phase `name` from now on; None: it has ended."""
        before = self._phases.get(request)
        if before == name:
            return
        if before is not None:
            self._write("e", before, at_s, cat="request", id=request)
            del self._phases[request]
        if name is not None:
            self._write("b", name, at_s, cat="request", id=request)
            self._phases[request] = name

    def close(self) -> None:
        """Ends the file; nothing may be written to it afterwards."""
        self._say("\n]\n")
        try:
            self._file.close()
        except OSError as problem:
            self._give_up(problem)

    def __enter__(self) -> Trace:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _write(self, kind: str, name: str, at_s: float, **rest: Any) -> None:
        event = {"ph": kind, "name": name, "pid": PROCESS, "ts": at_s * 1e6, **rest}
        self._say(self._separator + json.dumps(event))
        self._separator = ",\n"

    def _say(self, text: str) -> None:
        if self.fault is None:
            try:
                self._file.write(text)
            except OSError as problem:
                self._give_up(problem)

    def _give_up(self, problem: OSError) -> None:
        self.fault = self.fault or f"{self._path}: the trace ends early ({problem.strerror})."
