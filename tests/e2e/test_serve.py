"""`dougong serve` talked to by OpenAI's own client: answers, streams, forms, tools."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.request import urlopen

import openai
import pytest
from support.serving import nano_engine, served

import dougong
from dougong.api_question import Question
from dougong.engine.request import Job

QUESTION: list[Any] = [{"role": "user", "content": "Tell me a story about a bear."}]
SCHEMA: Any = {
    "type": "object",
    "properties": {"sum": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["sum"],
}


@pytest.fixture(scope="module")
def engine() -> Iterator[dougong.Engine]:
    with nano_engine() as started:
        yield started


@pytest.fixture(scope="module")
def url(engine: dougong.Engine) -> Iterator[str]:
    with served(engine) as address:
        yield address


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


def test_metrics_are_what_prometheus_reads(url: str, engine: dougong.Engine) -> None:
    with urlopen(url.removesuffix("/v1") + "/metrics", timeout=60) as reply:
        lines = reply.read().decode().splitlines()
    figures = {name: float(value) for name, value in (line.split(" ") for line in lines)}
    assert all(re.fullmatch("dougong_[a-z_]+", name) for name in figures)
    assert figures["dougong_replies_length"] == engine.metrics.replies["length"] > 0
    assert figures["dougong_tokens_written"] > 0
    assert figures["dougong_waiting"] == 0
