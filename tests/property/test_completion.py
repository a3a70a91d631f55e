"""Answers parse the same whole or in chunks, and parsing undoes rendering."""

import json
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from dougong.chat import Completion, CompletionParser, parse, render
from dougong.chat.completion import (
    ContentDelta,
    Event,
    ReasoningDelta,
    ToolCallDelta,
    ToolCallEnd,
    ToolCallStart,
)
from dougong.chat.special import ASSISTANT, DSML, EOS, THINK

BLOCK = (
    f'\n\n<{DSML}tool_calls>\n<{DSML}invoke name="f">\n'
    f'<{DSML}parameter name="a" string="true">x "y"\n</{DSML}parameter>\n'
    f'<{DSML}parameter name="b" string="false">[1, 2.50]</{DSML}parameter>\n'
    f'</{DSML}invoke>\n<{DSML}invoke name="g">\n\n</{DSML}invoke>\n</{DSML}tool_calls>'
)
# Markup whole and in halves, so that draws hold broken and misplaced blocks as well as good ones.
fragments = st.sampled_from(
    ["a", "é☃", " ", "\n", "\n\n", "</think>", "<think>", BLOCK, BLOCK[:70], BLOCK[70:], "<", "</"]
    + [f"<{DSML}", f"</{DSML}", "｜", "<｜User｜>", f"</{DSML}tool_calls>", '">', "string"]
)
answers = st.lists(fragments, max_size=8).map("".join)


def without_ids(answer: Completion) -> Completion:
    """Ids of calls are random."""
    return replace(answer, tool_calls=tuple(replace(call, id=None) for call in answer.tool_calls))


def collected(events: list[Event]) -> tuple[str, str, list[tuple[str, str]]]:
    """Reasoning, content and calls, from the events alone."""
    reasoning = "".join(event.text for event in events if isinstance(event, ReasoningDelta))
    content = "".join(event.text for event in events if isinstance(event, ContentDelta))
    calls: list[tuple[str, str]] = []
    for event in events:
        if isinstance(event, ToolCallStart):
            assert event.index == len(calls)
            calls.append((event.name, ""))
        elif isinstance(event, ToolCallDelta):
            name, arguments = calls[event.index]
            calls[event.index] = (name, arguments + event.arguments)
        elif isinstance(event, ToolCallEnd):
            assert calls[event.index] == (event.call.name, event.call.arguments)
    return reasoning, content, calls


@settings(max_examples=300)
@given(
    text=answers,
    thinking=st.booleans(),
    tools=st.booleans(),
    cuts=st.lists(st.integers(0, 400), max_size=20),
)
def test_chunks_change_nothing(text: str, thinking: bool, tools: bool, cuts: list[int]) -> None:
    whole = parse(text, thinking=thinking, tools=tools)
    parser = CompletionParser(thinking=thinking, tools=tools)
    edges = [0, *sorted(cut for cut in cuts if cut < len(text)), len(text)]
    events: list[Event] = []
    for start, end in zip(edges, edges[1:], strict=False):
        events.extend(parser.push(text[start:end]))
    events.extend(parser.finish())
    assert without_ids(parser.completion) == without_ids(whole)
    calls = [(call.name, call.arguments) for call in whole.tool_calls]
    assert collected(events) == (whole.reasoning, whole.content, calls)
    ends = [event.index for event in events if isinstance(event, ToolCallEnd)]
    assert ends == list(range(len(calls)))


# The recipe leaves out newlines at the edges of a part.
words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<｜"), max_size=12)
parts = words.map(lambda text: text.strip("\n"))
names = st.text("abc_", min_size=1, max_size=5)
numbers = st.integers(-(2**53), 2**53) | st.booleans() | st.none()
values = st.recursive(
    words | numbers, lambda inner: st.lists(inner) | st.dictionaries(names, inner), max_leaves=4
)
made_calls = st.lists(st.tuples(names, st.dictionaries(names, values, max_size=3)), max_size=3)


@settings(max_examples=200)
@given(reasoning=parts, content=parts, calls=made_calls)
def test_parsing_undoes_rendering(
    reasoning: str, content: str, calls: list[tuple[str, dict[str, Any]]]
) -> None:
    message = {
        "role": "assistant",
        "reasoning_content": reasoning or None,
        "content": content,
        "tool_calls": [
            {"function": {"name": name, "arguments": json.dumps(arguments)}}
            for name, arguments in calls
        ],
    }
    prompt = render([{"role": "user", "content": "q"}, message], thinking=True)
    text = prompt.split(ASSISTANT + THINK)[1]
    assert text.endswith(EOS)
    answer = parse(text, thinking=True)
    assert (answer.reasoning, answer.content, answer.errors) == (reasoning, content, ())
    assert answer.finish_reason == ("tool_calls" if calls else "stop")
    read = [(call.name, json.loads(call.arguments)) for call in answer.tool_calls]
    assert read == calls
    again = render([{"role": "user", "content": "q"}, answer.message()], thinking=True)
    assert again == prompt
