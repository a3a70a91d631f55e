"""`dougong serve` talked to by OpenAI's own client, and by clients that mean no good."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import openai
import pytest
import torch
import uvicorn

import dougong
from dougong.api_question import Question
from dougong.cli.main import run
from dougong.engine.engine import EngineError
from dougong.engine.request import Job
from dougong.engine.scheduler import QueueFullError
from dougong.server.app import make_app
from dougong.server.gate import LOOPBACK, Gate

QUESTION: list[Any] = [{"role": "user", "content": "Tell me a story about a bear."}]
JSON_HEADERS = {"Content-Type": "application/json"}
BODY = json.dumps({"messages": QUESTION, "max_tokens": 1}).encode()
SCHEMA: Any = {
    "type": "object",
    "properties": {"sum": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["sum"],
}


@pytest.fixture(scope="module")
def engine() -> Iterator[dougong.Engine]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with dougong.Engine("nano") as started:
        yield started
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def url(engine: dougong.Engine) -> Iterator[str]:
    listening = socket.create_server(("127.0.0.1", 0))
    app = Gate(make_app(engine, "nano"), hosts=LOOPBACK)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as made:
        yield made


def test_the_openai_client_finds_the_model(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["nano"]
    assert client.models.retrieve("nano").owned_by == "dougong"
    with pytest.raises(openai.NotFoundError, match="'other' is not here"):
        client.models.retrieve("other")


def test_a_whole_answer_is_the_one_that_the_engine_gives(
    client: openai.OpenAI, engine: dougong.Engine
) -> None:
    reply = client.chat.completions.create(
        model="nano", messages=QUESTION, max_tokens=30, seed=3, n=2, logprobs=True, top_logprobs=2
    )
    alone = engine.generate([QUESTION], max_tokens=30, seed=3, n=2, logprobs=2)
    assert len(reply.choices) == 2
    for choice, answer in zip(reply.choices, alone, strict=True):
        assert choice.message.content == answer.text
        assert choice.finish_reason == answer.finish_reason
        assert choice.logprobs is not None
        assert choice.logprobs.content is not None
        assert [entry.logprob for entry in choice.logprobs.content] == [
            entry.logprob for entry in answer.logprobs if entry.token != 1
        ]
        assert all(len(entry.top_logprobs) == 2 for entry in choice.logprobs.content)
    assert reply.usage is not None
    assert reply.usage.prompt_tokens == alone[0].prompt_tokens
    assert reply.usage.completion_tokens == sum(len(answer.ids) for answer in alone)


def test_a_streamed_answer_adds_up_to_the_whole_one(client: openai.OpenAI) -> None:
    asked: Any = {"model": "nano", "messages": QUESTION, "max_tokens": 30, "seed": 5}
    whole = client.chat.completions.create(**asked)
    text, reasons, usage = "", [], None
    chunks = client.chat.completions.create(
        **asked, stream=True, stream_options={"include_usage": True}
    )
    for chunk in chunks:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            reasons += [choice.finish_reason] if choice.finish_reason else []
    assert text == whole.choices[0].message.content
    assert reasons == [whole.choices[0].finish_reason]
    assert usage is not None
    assert whole.usage is not None
    assert usage.completion_tokens == whole.usage.completion_tokens


def test_two_at_once_give_the_bits_of_one_alone(client: openai.OpenAI, url: str) -> None:
    asked: list[dict[str, Any]] = [
        {"messages": [{"role": "user", "content": f"What is {i} + 2 ?"}], "seed": i}
        for i in range(6)
    ]
    common: Any = {"model": "nano", "max_tokens": 16, "logprobs": True}
    alone = [client.chat.completions.create(**one, **common).choices[0] for one in asked]

    async def together() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as busy:
            calls = [busy.chat.completions.create(**one, **common) for one in asked]
            return [reply.choices[0] for reply in await asyncio.gather(*calls)]

    for one, other in zip(alone, asyncio.run(together()), strict=True):
        assert one.model_dump() == other.model_dump()


def test_the_next_turn_is_read_from_the_cache(client: openai.OpenAI) -> None:
    story = "Once there was a bear who liked honey. " * 30
    messages: list[Any] = [{"role": "user", "content": story}]
    first = client.chat.completions.create(
        model="nano", messages=messages, max_tokens=8, user="anna"
    )
    messages += [first.choices[0].message.to_dict(), {"role": "user", "content": "And then?"}]
    found = []
    for user in ("anna", "bert"):  # who shares nothing with her
        reply = client.chat.completions.create(
            model="nano", messages=messages, max_tokens=8, user=user
        )
        assert reply.usage is not None
        assert reply.usage.prompt_tokens_details is not None
        found.append((reply.usage.prompt_tokens_details.cached_tokens, reply.choices[0].message))
    assert found[0][0] is not None
    assert found[0][0] >= 128
    assert found[1][0] == 0
    assert found[0][1] == found[1][1]


def test_leaving_a_stream_or_a_call_cancels_the_request(
    client: openai.OpenAI, engine: dougong.Engine
) -> None:
    endless: Any = {"model": "nano", "messages": QUESTION, "max_tokens": 50_000}
    endless["extra_body"] = {"min_tokens": 50_000}
    before = engine.metrics.replies["cancelled"]
    with client.chat.completions.create(**endless, stream=True) as chunks:
        next(iter(chunks))
    with pytest.raises(openai.APITimeoutError):
        client.chat.completions.create(**endless, timeout=0.3)
    limit = time.monotonic() + 60  # a request that is never cancelled must fail the test, not hang
    while engine.metrics.replies["cancelled"] < before + 2 and time.monotonic() < limit:
        time.sleep(0.02)
    assert engine.metrics.replies["cancelled"] == before + 2


def test_answers_have_the_form_that_was_asked_for(client: openai.OpenAI) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "sum", "schema": SCHEMA}}
    asked: Any = {"model": "nano", "messages": QUESTION, "max_tokens": 100}
    reply = client.chat.completions.create(**asked, response_format=form)
    found = json.loads(reply.choices[0].message.content or "")
    assert 0 <= found["sum"] <= 9
    assert found.keys() == {"sum"}


def test_a_tool_call_is_streamed_and_its_result_is_read(client: openai.OpenAI) -> None:
    tool: Any = {"type": "function", "function": {"name": "add", "parameters": SCHEMA}}
    asked: Any = {"model": "nano", "tools": [tool], "max_tokens": 200}
    chunks = client.chat.completions.create(
        **asked, messages=QUESTION, tool_choice="required", stream=True, seed=1
    )
    deltas = [choice for chunk in chunks for choice in chunk.choices]
    calls = [call for choice in deltas for call in choice.delta.tool_calls or [] if call.index == 0]
    assert deltas[-1].finish_reason == "tool_calls"
    functions = [call.function for call in calls if call.function]
    assert functions[0].name == "add"
    arguments = "".join(function.arguments or "" for function in functions)
    assert json.loads(arguments).keys() == {"sum"}
    call = {"id": calls[0].id, "type": "function"}
    call["function"] = {"name": "add", "arguments": arguments}  # type: ignore[assignment]
    messages: Any = [
        *QUESTION,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": calls[0].id, "content": "5"},
    ]
    reply = client.chat.completions.create(**asked, messages=messages, tool_choice="none")
    assert reply.choices[0].message.content


def test_who_waits_for_a_grammar_keeps_nobody_else_waiting(
    client: openai.OpenAI, url: str, engine: dougong.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask, is_over = engine.ask, threading.Event()

    def slow_with_grammars(question: Question) -> list[Job]:
        if question.grammar() is not None:
            is_over.wait(60)
        return ask(question)

    monkeypatch.setattr(engine, "ask", slow_with_grammars)
    common: Any = {"model": "nano", "messages": QUESTION, "max_tokens": 4}

    async def many() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as busy:
            form = {"type": "json_object"}
            calls = [
                asyncio.create_task(busy.chat.completions.create(**common, response_format=form))
                for _ in range(16)
            ]
            plain = await busy.chat.completions.create(**common, timeout=30)
            assert not any(call.done() for call in calls)
            is_over.set()
            return [plain, *await asyncio.gather(*calls)]

    try:
        assert len(asyncio.run(many())) == 17
    finally:
        is_over.set()


def test_what_goes_wrong_inside_has_openais_form_too(
    url: str, engine: dougong.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for error, status, sentence in (
        (QueueFullError("too many are waiting."), 429, "too many are waiting."),
        (EngineError("the engine has stopped."), 503, "the engine has stopped."),
        (RuntimeError("a bug, with a secret"), 500, "internal error: RuntimeError."),
    ):
        monkeypatch.setattr(engine, "ask", lambda _, error=error: raise_(error))
        try:
            urlopen(Request(f"{url}/chat/completions", BODY, JSON_HEADERS), timeout=60)
        except HTTPError as refusal:
            assert (refusal.code, json.load(refusal)["error"]["message"]) == (status, sentence)
            assert (refusal.headers["Retry-After"] is not None) == (status == 429)
        else:
            pytest.fail("it was answered")


def raise_(error: Exception) -> None:
    raise error


def test_leaving_in_the_middle_of_a_request_is_no_fault(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    host, port = url.removeprefix("http://").removesuffix("/v1").split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Length: 999\r\n"
        connection.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n{")
    with urlopen(Request(f"{url}/chat/completions", BODY, JSON_HEADERS), timeout=60) as reply:
        assert reply.status == 200  # which came later, so the first has been seen to
    assert not caplog.records


def test_metrics_are_what_prometheus_reads(url: str, engine: dougong.Engine) -> None:
    with urlopen(url.removesuffix("/v1") + "/metrics", timeout=60) as reply:
        lines = reply.read().decode().splitlines()
    figures = {name: float(value) for name, value in (line.split(" ") for line in lines)}
    assert all(re.fullmatch("dougong_[a-z_]+", name) for name in figures)
    assert figures["dougong_replies_length"] == engine.metrics.replies["length"] > 0
    assert figures["dougong_tokens_written"] > 0
    assert figures["dougong_waiting"] == 0


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"temperature": -1.0}, "temperature is -1.0; it must be 0 or more"),
        ({"n": 0}, "n is 0"),
        ({"n": True}, "n is True"),
        ({"max_tokens": 10**7}, "do not fit"),
        ({"max_tokens": 5, "max_completion_tokens": 5}, "leave one out"),
        ({"top_logprobs": 2}, "needs logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "logprobs is 21"),
        ({"stop": ["x"] * 17}, "at most 16 strings"),
        ({"stop": [3]}, "stop must be a string or a list of strings"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**63}, "seed is 9223372036854775808"),
        ({"logit_bias": {"4096000": 1}}, "names id 4096000"),
        ({"logit_bias": {"5": 1e9}}, "it must be from -100 to 100"),
        ({"messages": []}, "messages is empty"),
        ({"messages": "hi"}, "messages must be a list"),
        ({"messages": [*QUESTION, {"role": "assistant", "content": "Once"}]}, "must end with"),
        ({"tools": [{"function": {"name": "f", "returns": 3}}]}, "tools[0].function.returns is no"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content must be"),
        ({"model": "gpt-9"}, "model 'gpt-9' is not here"),
        ({"best_of": 3}, "'best_of' is no field"),
        ({"stream_options": {"chunks": 1}}, "include_usage and nothing else"),
        ({"thinking": {"type": "deep"}}, "thinking must be"),
        ({"reasoning_effort": "huge"}, "effort 'huge' is unknown"),
        ({"tools": [{"name": "f"}]}, "tools[0] must be"),
        ({"tools": [3]}, "tools[0] must be"),
        ({"tool_choice": "sometimes"}, "tool_choice is 'sometimes'"),
        ({"response_format": 3}, "response_format: its type is None"),
        ({"response_format": {"type": "regex", "regex": "(a"}}, "the regex cannot be used"),
        ({"min_tokens": 9, "max_tokens": 3}, "min_tokens 9"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_done_is_refused_in_one_sentence(
    url: str, changes: dict[str, Any], sentence: str, stream: bool
) -> None:
    status, answer = post(url, {"messages": QUESTION, "stream": stream, **changes})
    assert status == (404 if "model" in changes else 400)
    assert answer["error"].keys() == {"message", "type", "param", "code"}
    assert sentence in answer["error"]["message"]


def post(
    url: str, body: Any, path: str = "/chat/completions", **headers: str
) -> tuple[int, dict[str, Any]]:
    """Status and object of a plain POST."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {**JSON_HEADERS, **headers}
    try:
        with urlopen(Request(url + path, data, headers), timeout=60) as reply:
            return reply.status, json.load(reply)
    except HTTPError as error:
        return error.code, json.load(error)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"[]", 400),
        (b"\xff\xfe", 400),
        (b'{"a": 1, "a": 2}', 400),
        (b'{"temperature": NaN}', 400),
        (b"[" * 100_000, 400),
        (b'{"seed": ' + b"9" * 10_000 + b"}", 400),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', 400),
        (b'{"messages": "' + b"x" * (33 * 2**20) + b'"}', 413),
    ],
    ids=lambda value: repr(value[:20]) if isinstance(value, bytes) else str(value),
)
def test_hostile_bodies_are_refused(url: str, body: bytes, status: int) -> None:
    try:
        found, answer = post(url, body)
    except OSError:  # the server may hang up on a body that is too large before it is all sent
        assert status == 413
        return
    assert found == status
    assert answer["error"]["message"].endswith(".")


def test_strange_hosts_pages_paths_and_forms_are_refused(url: str) -> None:
    body = {"messages": QUESTION, "max_tokens": 1}
    assert post(url, body, Host="evil.example")[0] == 403
    assert post(url, body, Origin="https://evil.example")[0] == 403
    assert post(url, body, Origin="null")[0] == 403
    assert post(url, body, Origin="http://localhost:3000")[0] == 200
    assert post(url, body, path="/nothing")[0] == 404
    assert post(url, body, path="/models")[0] == 405
    status, answer = post(url, body, **{"Content-Type": "text/plain"})
    assert (status, "application/json" in answer["error"]["message"]) == (415, True)


def test_the_command_serves_until_it_is_interrupted(tmp_path: Path) -> None:
    key = tmp_path / "key.txt"
    key.write_text("0123456789abcdef-secret\n")
    words = ["serve", "--port", "0", "--json", "--threads", "1", "--api-key-file", str(key)]
    process = subprocess.Popen(
        [sys.executable, "-m", "dougong.cli.main", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        started = json.loads(process.stdout.readline())
        assert started["url"].startswith("http://127.0.0.1:")
        right = openai.OpenAI(base_url=started["url"], api_key="0123456789abcdef-secret")
        reply = right.chat.completions.create(model="nano", messages=QUESTION, max_tokens=4)
        assert reply.choices[0].message.content
        for path in ("/chat/completions", "/models", "/../health", "/unknown"):
            assert post(started["url"], {}, path=path)[0] == 401
            assert post(started["url"], {}, path=path, Authorization="Bearer wrong")[0] == 401
    finally:
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert "Traceback" not in err
    assert process.returncode == 130


def test_a_stream_that_a_shutdown_cuts_off_says_so(tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    words = ["serve", "--port", "0", "--json", "--threads", "1", "--trace", str(trace)]
    process = subprocess.Popen(
        [sys.executable, "-m", "dougong.cli.main", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["url"]
        with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
            chunks = client.chat.completions.create(
                model="nano", messages=QUESTION, max_tokens=50_000, stream=True,
                extra_body={"min_tokens": 50_000},
            )  # fmt: skip
            next(iter(chunks))
            process.send_signal(signal.SIGTERM)
            with pytest.raises(openai.APIError, match="the server is shutting down"):
                list(chunks)
    finally:
        process.terminate()
        _, err = process.communicate(timeout=60)
    assert err == ""
    assert process.returncode == -signal.SIGTERM
    assert {event["name"] for event in json.loads(trace.read_text())} >= {"model", "decode"}


def test_an_address_that_others_reach_needs_a_key(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    short = tmp_path / "short.txt"
    short.write_text("secret")
    for words, sentence in (
        (["--host", "0.0.0.0"], "give --api-key-file"),
        (["--host", "example.org"], "is no IP address"),
        (["--api-key-file", str(short)], "16 to 512 characters"),
        (["--api-key-file", str(tmp_path / "none")], "cannot be read"),
    ):
        assert run(["serve", *words]) == 1
        assert sentence in capfd.readouterr().err
