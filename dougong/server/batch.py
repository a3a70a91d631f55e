"""Batch files in OpenAI's layout: one request a line in, one answer a line out, in any order.

A line's id is its number and a digest of its bytes, the model's weights and how it computes, so a
run that was killed goes on where it stopped: answers in the file are kept, all others are computed,
to the same tokens. https://platform.openai.com/docs/guides/batch describes the layout.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from queue import SimpleQueue
from typing import Any, BinaryIO

from dougong.api_engine import Engine
from dougong.chat.effort import Profile
from dougong.config_json import parse_json_object
from dougong.engine.engine import EngineError
from dougong.engine.fingerprint import fingerprint
from dougong.engine.request import Finish, Reply, Update
from dougong.errors import DougongError, InputError
from dougong.server.chat_reply import ChatWriter, error_object
from dougong.server.chat_request import read_chat

URL = "/v1/chat/completions"
MAX_LINE_BYTES = 32 * 2**20
MAX_CUSTOM_ID = 512
JOBS_AHEAD = 256  # keeps the engine full, and memory bounded however long the file is
_FIELDS = {"custom_id", "method", "url", "body"}

Report = Callable[[int, int], None]


@dataclass
class Totals:
    """What a run did. `kept`: answers that the file held already; tokens are of this run."""

    requests: int = 0
    kept: int = 0
    answered: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0


@dataclass
class _Line:
    """One line of the batch file; `text` is None where it is longer than any request."""

    number: int
    text: bytes | None
    id: str


@dataclass
class _Asked:
    """A request whose answers are being written."""

    id: str
    custom_id: str
    writer: ChatWriter
    replies: list[Reply | None] = field(default_factory=list)


class BatchRun:
    """Answers the requests of `source` into `out`, going on where an earlier run stopped.

    Args:   model: what requests may call it.
    Raises: InputError if a file cannot be used, or `out` holds answers to something else.
    """

    def __init__(
        self, engine: Engine, model: str, source: Path, out: Path, *, profile: Profile = "preview"
    ) -> None:
        self.engine, self.model, self.profile = engine, model, profile
        self.source, self.out = source, out
        self._computed_with = fingerprint(engine.transformer) + f"{model} {profile}".encode()
        self.totals = Totals()
        self._done: SimpleQueue[tuple[_Asked, int, Reply]] = SimpleQueue()
        self._jobs_ahead = 0
        self._custom_ids: dict[str, int] = {}

    def run(self, report: Report | None = None) -> Totals:
        """Answers everything that is not answered yet; `report` hears (done, all)."""
        with _open(self.source, "rb") as source, _open(self.out, "a+b") as out:
            finished = self._finished(source, out)
            source.seek(0)
            for line in self._lines(source):
                while self._jobs_ahead >= JOBS_AHEAD:
                    self._take(out, report)
                if self._read_again(line, finished):
                    self.totals.kept += 1
                    continue
                self._ask(line, out)
                while not self._done.empty():
                    self._take(out, report)
            while self._jobs_ahead:
                self._take(out, report)
            os.fsync(out.fileno())
        return self.totals

    # -- the two files -------------------------------------------------------------------------

    def _lines(self, source: BinaryIO) -> Iterator[_Line]:
        """The lines that hold something. One that is too long is skipped, not held."""
        number = 0
        while text := source.readline(MAX_LINE_BYTES + 1):
            number += 1
            digest = sha256(self._computed_with + b"\0" + text.rstrip(b"\r\n"))
            is_whole = len(text) <= MAX_LINE_BYTES or text.endswith(b"\n")
            while not text.endswith(b"\n") and (more := source.readline(MAX_LINE_BYTES)):
                digest.update(more.rstrip(b"\r\n"))
                text = more
            if text.strip() or not is_whole:
                line_id = f"batch_req_{number}_{digest.hexdigest()[:16]}"
                yield _Line(number, text if is_whole else None, line_id)

    def _finished(self, source: BinaryIO, out: BinaryIO) -> set[str]:
        """Ids that `out` holds; what a kill left of a last line is cut off."""
        try:
            fcntl.flock(out, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"{self.out} is being written by another process.") from None
        finished, size = set[str](), 0
        out.seek(0)
        for number, text in enumerate(out, 1):
            if not text.endswith(b"\n"):
                break
            size += len(text)
            row = parse_json_object(text, f"{self.out}, line {number},", InputError)
            finished.add(str(row.get("id")))
        known = set[str]()
        for line in self._lines(source):
            known.add(line.id)
            self.totals.requests += 1
        if finished - known:
            raise InputError(
                f"{self.out} holds answers to other requests, or of a model that computes "
                "otherwise; write to another file or remove it."
            )
        out.truncate(size)
        return finished

    def _read_again(self, line: _Line, finished: set[str]) -> bool:
        """Whether an earlier run answered this line, whose custom_id stays taken."""
        if line.id not in finished:
            return False
        with contextlib.suppress(InputError):  # as the earlier run has said
            self._claim(line, self._row(line))
        return True

    def _write(self, out: BinaryIO, row: dict[str, Any]) -> None:
        """One line at once, and out of this process: a kill can only cut off the last."""
        out.write(json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n")
        out.flush()

    # -- requests ------------------------------------------------------------------------------

    def _ask(self, line: _Line, out: BinaryIO) -> None:
        """Starts a line's request, or writes at once why it cannot be answered."""
        custom_id = None
        try:
            row = self._row(line)
            custom_id = self._claim(line, row)
            self._submit(line, custom_id, _body(row))
        except EngineError:
            raise
        except DougongError as problem:
            self.totals.failed += 1
            self._write(out, _refusal(line.id, custom_id, f"line {line.number}: {problem}"))

    def _row(self, line: _Line) -> dict[str, object]:
        if line.text is None:
            raise InputError(f"it is longer than {MAX_LINE_BYTES:,} bytes.")
        return parse_json_object(line.text, "it", InputError)

    def _claim(self, line: _Line, row: dict[str, object]) -> str:
        """The line's custom_id, which no other may have."""
        custom_id = row.get("custom_id")
        if not isinstance(custom_id, str) or not 1 <= len(custom_id) <= MAX_CUSTOM_ID:
            raise InputError(f"custom_id must be a string of 1 to {MAX_CUSTOM_ID} characters.")
        first = self._custom_ids.setdefault(custom_id, line.number)
        if first != line.number:
            raise InputError(f"custom_id {custom_id!r:.100} is line {first}'s already.")
        return custom_id

    def _submit(self, line: _Line, custom_id: str, body: dict[str, Any]) -> None:
        request = read_chat(body, self.model, profile=self.profile)
        if request.stream:
            raise InputError("stream is true, but a batch is not streamed; leave it out.")
        jobs = self.engine.ask(request.question)
        name = f"chatcmpl-{line.id.removeprefix('batch_req_')}"
        writer = ChatWriter(
            name, self.model, int(time.time()), request.question, self.engine.model.tokenizer
        )
        asked = _Asked(line.id, custom_id, writer, [None] * len(jobs))
        for index, job in enumerate(jobs):
            self.engine.jobs.submit(job, self._listener(asked, index))
            self._jobs_ahead += 1

    def _listener(self, asked: _Asked, index: int) -> Callable[[Update], None]:
        def hear(update: Update) -> None:
            if update.reply is not None:
                self._done.put((asked, index, update.reply))

        return hear

    def _take(self, out: BinaryIO, report: Report | None) -> None:
        """Waits for a reply; writes the request's line when it was the last."""
        asked, index, reply = self._done.get()
        if reply.finish is Finish.ERROR and self.engine.jobs.fault is not None:
            raise EngineError(self.engine.jobs.fault)  # no answer: another run may have one
        self._jobs_ahead -= 1
        asked.replies[index] = reply
        replies = [reply for reply in asked.replies if reply is not None]
        if len(replies) < len(asked.replies):
            return
        error = next((reply.error for reply in replies if reply.error is not None), None)
        usage, totals = asked.writer.usage(replies), self.totals
        totals.prompt_tokens += usage.prompt_tokens
        totals.cached_tokens += usage.cached_tokens
        totals.completion_tokens += usage.completion_tokens
        if error is not None:
            totals.failed += 1
            self._write(out, _refusal(asked.id, asked.custom_id, error, 500))
        else:
            totals.answered += 1
            self._write(out, _row(asked.id, asked.custom_id, 200, asked.writer.whole(replies)))
        if report is not None:
            report(totals.kept + totals.answered + totals.failed, totals.requests)


def _body(row: dict[str, object]) -> dict[str, Any]:
    """The request in a line."""
    if row.get("method") != "POST" or row.get("url") != URL:
        found = f"{row.get('method')} {row.get('url')}"
        raise InputError(f"method and url are {found:.100}; expected POST {URL}.")
    body = row.get("body")
    if not isinstance(body, dict):
        raise InputError("body must be an object, the request itself.")
    if rest := row.keys() - _FIELDS:
        raise InputError(f"{sorted(rest)[0]!r:.100} is no field of a batch line.")
    return body


def _refusal(
    line_id: str, custom_id: str | None, message: str, status: int = 400
) -> dict[str, Any]:
    """The line of a request that has no answer; without a custom_id there was no request."""
    if custom_id is None:
        error = {"code": "invalid_line", "message": message}
        return {"id": line_id, "custom_id": None, "response": None, "error": error}
    kind = "invalid_request_error" if status == 400 else "server_error"
    return _row(line_id, custom_id, status, error_object(message, kind))


def _row(line_id: str, custom_id: str, status: int, body: dict[str, Any]) -> dict[str, Any]:
    response = {"status_code": status, "request_id": line_id, "body": body}
    return {"id": line_id, "custom_id": custom_id, "response": response, "error": None}


def _open(path: Path, mode: str) -> BinaryIO:
    try:
        return path.open(mode)  # type: ignore[return-value]
    except OSError as problem:
        what = "read" if mode == "rb" else "written"
        raise InputError(f"{path} cannot be {what}: {problem.strerror}.") from None
