"""What an answer's text comes apart into, and what is said when it is wrong."""

import pytest

from dougong.chat import CompletionParser, parse
from dougong.chat.completion import (
    ContentDelta,
    ReasoningDelta,
    ToolCallDelta,
    ToolCallEnd,
    ToolCallStart,
)
from dougong.chat.special import DSML, EOS
from dougong.errors import InputError


def call(name: str, *values: str) -> str:
    """One call whose parameters are all called "a"; values that start with ! are JSON."""
    lines = [
        f'<{DSML}parameter name="a" string="{str(value[0] != "!").lower()}">'
        f"{value.removeprefix('!')}</{DSML}parameter>\n"
        for value in values
    ]
    return f'<{DSML}invoke name="{name}">\n{"".join(lines)}</{DSML}invoke>\n'


def block(*calls: str) -> str:
    return f"\n\n<{DSML}tool_calls>\n{''.join(calls)}</{DSML}tool_calls>"


BLOCK = block(call("f", "x"))
NOT_AN_OBJECT = "has arguments that are not a JSON object: "


def test_reasoning_content_and_calls_come_apart() -> None:
    answer = parse(f"r</think>c{BLOCK}{EOS}", thinking=True)
    assert (answer.reasoning, answer.content, answer.finish_reason) == ("r", "c", "tool_calls")
    assert [(call.name, call.arguments) for call in answer.tool_calls] == [("f", '{"a": "x"}')]
    assert answer.errors == ()


def test_without_thinking_all_text_is_content() -> None:
    answer = parse("an answer", thinking=False)
    assert (answer.reasoning, answer.content, answer.errors) == ("", "an answer", ())
    assert answer.finish_reason == "stop"


def test_without_tools_their_markup_is_content() -> None:
    answer = parse(f"c{BLOCK}", thinking=False, tools=False)
    assert answer.content == f"c{BLOCK}"
    assert answer.tool_calls == ()


def test_events_come_as_soon_as_text_cannot_be_markup() -> None:
    parser = CompletionParser(thinking=True)
    assert parser.push("hm") == [ReasoningDelta("hm")]
    assert parser.push("</th") == []
    assert parser.push("ink>so") == [ContentDelta("so")]


def test_call_events_are_in_order() -> None:
    parser = CompletionParser(thinking=False)
    events = [*parser.push(f"c{BLOCK}"), *parser.finish()]
    assert events[0] == ContentDelta("c")
    start, *deltas, end = events[1:]
    assert isinstance(start, ToolCallStart)
    assert (start.index, start.name) == (0, "f")
    arguments = "".join(delta.arguments for delta in deltas if isinstance(delta, ToolCallDelta))
    assert arguments == '{"a": "x"}'
    assert isinstance(end, ToolCallEnd)
    assert end.call == parser.completion.tool_calls[0]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("r only", "The reasoning did not end with </think>."),
        (f"r{BLOCK}</think>c", "The reasoning did not end with </think>."),
        ("r</think>c</think>d", "The content held </think>, which is left out."),
        ("r</think>c<｜User｜>d", "The content holds the special token <｜User｜>."),
        (f"r</think>c{BLOCK} d", "Text after the tool-call block is lost: 'd'."),
        (f"r</think>c{BLOCK[:60]}", "The tool-call block did not end"),
        (f"r</think>c{block()}", "The tool-call block held no call."),
        (f"r</think>c <{DSML}other> d", "The tool-call block did not end"),
        (f"r</think>{block(call('f', '!x'))}", f"Tool call 0 ('f') {NOT_AN_OBJECT}Expecting value"),
        (
            f"r</think>{block(call('f', 'x'), call('g', '![1'))}",
            f"Tool call 1 ('g') {NOT_AN_OBJECT}Expecting ',' delimiter",
        ),
        (
            f"r</think>{block(call('f', 'x', 'y'))}",
            f"Tool call 0 ('f') {NOT_AN_OBJECT}a name is given twice",
        ),
        (f"r</think>c{block(call('', 'x'))}", "Tool call 0 ('') has no name."),
    ],
)
def test_wrong_answer_says_what_is_wrong(text: str, error: str) -> None:
    assert any(found.startswith(error) for found in parse(text, thinking=True).errors)


def test_answer_cut_by_its_length_says_so() -> None:
    answer = parse(f"r</think>c{BLOCK[:90]}", thinking=True, finish_reason="length")
    assert answer.finish_reason == "length"
    assert answer.errors[0].startswith("The tool-call block did not end")


def test_a_finished_parser_takes_nothing_more() -> None:
    parser = CompletionParser(thinking=False)
    with pytest.raises(InputError, match="not finished"):
        _ = parser.completion
    parser.finish()
    for action in (lambda: parser.push("x"), parser.finish):
        with pytest.raises(InputError, match="finished"):
            action()
