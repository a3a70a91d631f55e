"""The HTTP side of `dougong serve`: Chat Completions, streamed or whole, Models and metrics."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from dougong.api_engine import Engine
from dougong.api_question import Question
from dougong.chat.completion import Event
from dougong.chat.effort import Profile
from dougong.config_json import parse_json_object
from dougong.engine.engine import EngineError
from dougong.engine.request import Finish, Job, Reply, Update
from dougong.engine.scheduler import QueueFullError
from dougong.errors import DougongError, InputError
from dougong.server.chat_reply import ChatWriter, error_object
from dougong.server.chat_request import ChatRequest, UnknownModelError, read_chat

MAX_BODY_BYTES = 32 * 2**20  # a million tokens of text, and room
UPDATES_AHEAD = 256  # held for a slow reader; the engine itself never waits for one
GRAMMARS_AHEAD = 32  # threads that may wait for a grammar: apart, so that nobody else does
RETRY_S = 1  # when to come again if too many are waiting

T = TypeVar("T")
Item = tuple[int, Update, list[Event]]


class ReplyError(DougongError):
    """A request was accepted and then went wrong."""


class TooLargeError(InputError):
    """A body is larger than any request."""


def make_app(engine: Engine, model: str, *, profile: Profile = "preview") -> FastAPI:
    """The application that answers for `engine`, whose model goes by the name `model`.

    It closes the engine when it is shut down.
    """
    grammars = ThreadPoolExecutor(GRAMMARS_AHEAD, "grammars")

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        grammars.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(engine.close)

    # no pages of its own: they would load scripts from elsewhere
    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    card = {"id": model, "object": "model", "created": int(time.time()), "owned_by": "dougong"}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [card]}

    @app.get("/v1/models/{name:path}")
    async def one_model(name: str) -> dict[str, Any]:
        if name != model:
            raise UnknownModelError(f"model {name!r:.100} is not here; this is {model!r}.")
        return card

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        body = parse_json_object(await _read_body(request), "the request", InputError)
        asked = read_chat(body, model, profile=profile)
        pool = None if asked.question.grammar() is None else grammars
        asking = asyncio.get_running_loop().run_in_executor(pool, engine.ask, asked.question)
        jobs = await _while_connected(request, asking)
        if jobs is None:
            return _gone()
        return await _answer(request, engine, model, asked, jobs)

    _add_signs(app, engine)
    for kind in (DougongError, HTTPException, ClientDisconnect, Exception):
        app.add_exception_handler(kind, _say)
    return app


def _add_signs(app: FastAPI, engine: Engine) -> None:
    """What tells how the engine is."""

    @app.get("/health")
    async def health() -> Response:
        fault = engine.jobs.fault
        return JSONResponse({"status": fault or "ok"}, 503 if fault else 200)

    @app.get("/metrics")
    async def metrics() -> Response:
        lines = [f"{name} {value}\n" for name, value in _flat("dougong", engine.figures())]
        return PlainTextResponse("".join(lines), media_type="text/plain; version=0.0.4")


def _flat(name: str, figures: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Figures under the names of all that they are nested in, as Prometheus reads them."""
    for key, value in figures.items():
        if isinstance(value, Mapping):
            yield from _flat(f"{name}_{key}", value)
        elif isinstance(value, int | float):
            yield f"{name}_{key}".replace(" ", "_"), value


# -- reading and answering ---------------------------------------------------------------------


async def _read_body(request: Request) -> bytes:
    """The body, given up as soon as it is too large."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # what a form on a stranger's page cannot send
        raise HTTPException(415, "send JSON, with Content-Type: application/json.")
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY_BYTES:
            raise TooLargeError(f"the request is larger than {MAX_BODY_BYTES:,} bytes.")
    return bytes(body)


async def _answer(
    request: Request, engine: Engine, model: str, asked: ChatRequest, jobs: Sequence[Job]
) -> Response:
    """The answer to a request whose jobs can be run."""
    writer = ChatWriter(
        f"chatcmpl-{secrets.token_hex(12)}", model, int(time.time()), asked.question,
        engine.model.tokenizer,
    )  # fmt: skip
    answering = _together(engine, asked.question, jobs)
    if not asked.stream:
        replies = await _while_connected(request, _replies(answering, len(jobs)))
        return _gone() if replies is None else JSONResponse(writer.whole(replies))
    # what goes wrong before the first token is still an error with a status of its own
    first = await _while_connected(request, anext(answering))
    if first is None:
        return _gone()
    return StreamingResponse(
        _lines(first, answering, writer, asked, len(jobs)), media_type="text/event-stream"
    )


async def _together(
    engine: Engine, question: Question, jobs: Sequence[Job]
) -> AsyncGenerator[Item]:
    """What comes of all jobs, each item with its job's index; leaving early cancels them."""
    items = asyncio.Queue[Item | Exception](UPDATES_AHEAD)

    async def follow(index: int, job: Job) -> None:
        try:
            async for update, events in engine.follow(question, job):
                await items.put((index, update, events))
        except DougongError as error:
            await items.put(error)

    tasks = [asyncio.create_task(follow(i, job)) for i, job in enumerate(jobs)]
    missing = len(jobs)
    try:
        while missing:
            item = await items.get()
            if isinstance(item, Exception):
                raise item
            if (reply := item[1].reply) is not None:
                missing -= 1
                if reply.error is not None:
                    raise ReplyError(reply.error)
                if reply.finish is Finish.CANCELLED:  # not by its sender, who would be gone
                    raise EngineError("the server is shutting down; ask again later.")
            yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _replies(answering: AsyncGenerator[Item], count: int) -> list[Reply]:
    """The replies in the order of the jobs."""
    found: dict[int, Reply] = {}
    try:
        async for index, update, _ in answering:
            if update.reply is not None:
                found[index] = update.reply
    finally:
        await answering.aclose()
    return [found[index] for index in range(count)]


async def _lines(
    first: Item, answering: AsyncGenerator[Item], writer: ChatWriter, asked: ChatRequest, count: int
) -> AsyncIterator[str]:
    """Server-sent events, one chunk each; an error in the middle is an event too."""
    found: dict[int, Reply] = {}
    try:
        for index in range(count):
            yield _event(writer.first(index))
        item: Item | None = first
        while item is not None:
            index, update, events = item
            for chunk in writer.chunks(index, update, events):
                yield _event(chunk)
            if update.reply is not None:
                found[index] = update.reply
                yield _event(writer.last(index, update.reply))
            item = await anext(answering, None)
        if asked.include_usage:
            yield _event(writer.usage_chunk([found[index] for index in range(count)]))
        yield "data: [DONE]\n\n"
    except DougongError as error:
        yield _event(error_object(str(error), "server_error"))
    finally:
        await answering.aclose()


def _event(chunk: dict[str, Any]) -> str:
    return f"data: {json.dumps(chunk, ensure_ascii=False, allow_nan=False)}\n\n"


async def _while_connected(request: Request, work: Awaitable[T]) -> T | None:
    """What `work` gives; None if the client leaves before, and `work` is cancelled."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.ensure_future(work), asyncio.create_task(gone())
    try:
        await asyncio.wait([working, leaving], return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


def _gone() -> Response:
    """To a client that has left; 499 is what other servers log for it."""
    return Response(status_code=499)


# -- errors ------------------------------------------------------------------------------------

_STATUS: tuple[tuple[type[Exception], int, str, str | None], ...] = (
    (UnknownModelError, 404, "invalid_request_error", "model_not_found"),
    (TooLargeError, 413, "invalid_request_error", None),
    (QueueFullError, 429, "rate_limit_error", "queue_full"),
    (InputError, 400, "invalid_request_error", None),
    (EngineError, 503, "server_error", "engine_stopped"),
    (DougongError, 500, "server_error", None),
)


async def _say(_: Request, error: Exception) -> Response:
    """An error in OpenAI's form."""
    if isinstance(error, HTTPException):
        body = error_object(f"{error.detail}".rstrip(".") + ".")
        return JSONResponse(body, error.status_code, headers=error.headers)
    if isinstance(error, ClientDisconnect):
        return _gone()
    if not isinstance(error, DougongError):  # its traceback is in the log
        body = error_object(f"internal error: {type(error).__name__}.", "server_error")
        return JSONResponse(body, 500)
    status, kind, code = next(row[1:] for row in _STATUS if isinstance(error, row[0]))
    headers = {"Retry-After": str(RETRY_S)} if status == 429 else None
    return JSONResponse(error_object(str(error), kind, code), status, headers)
