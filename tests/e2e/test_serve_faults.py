"""`dougong serve` and clients that mean no good, leave early or are cut off."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import openai
import pytest
from support.serving import nano_engine, served

import dougong
from dougong.cli.main import run
from dougong.engine.engine import EngineError
from dougong.engine.scheduler import QueueFullError

QUESTION: list[Any] = [{"role": "user", "content": "Tell me a story about a bear."}]
JSON_HEADERS = {"Content-Type": "application/json"}
BODY = json.dumps({"messages": QUESTION, "max_tokens": 1}).encode()


@pytest.fixture(scope="module")
def engine() -> Iterator[dougong.Engine]:
    with nano_engine() as started:
        yield started


@pytest.fixture(scope="module")
def url(engine: dougong.Engine) -> Iterator[str]:
    with served(engine) as address:
        yield address


def test_what_goes_wrong_inside_has_openais_form_too(
    url: str, engine: dougong.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for error, status, sentence in (
        (QueueFullError("too many are waiting."), 429, "too many are waiting."),
        (EngineError("the engine has stopped."), 503, "the engine has stopped."),
        (RuntimeError("a bug, with a secret"), 500, "internal error: RuntimeError."),
    ):
        monkeypatch.setattr(engine, "ask", lambda _, error=error: raise_(error))
        with pytest.raises(HTTPError) as refusal:
            urlopen(Request(f"{url}/chat/completions", BODY, JSON_HEADERS), timeout=60)
        message = json.load(refusal.value)["error"]["message"]
        assert (refusal.value.code, message) == (status, sentence)
        assert (refusal.value.headers["Retry-After"] is not None) == (status == 429)


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
    assert "ClientDisconnect" not in caplog.text


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
