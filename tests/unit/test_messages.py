"""A malformed conversation is refused in one sentence that names the message and the field."""

from typing import Any

import pytest

from dougong.chat import render
from dougong.errors import InputError

USER = {"role": "user", "content": "q"}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CALLING = {"role": "assistant", "tool_calls": [CALL]}
TOOLS = [{"type": "function", "function": {"name": "f"}}]


def with_call(**fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "tool_calls": [CALL | fields]}


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "messages is empty"),
        ("q", "messages must be a list"),
        ({"role": "user"}, "messages must be a list"),
        (["q"], r"messages\[0\] must be a dict, found str"),
        ([USER, {"content": "q"}], r"messages\[1\]\.role is None: use one of system, user"),
        ([{"role": "bot", "content": "q"}], r"messages\[0\]\.role is 'bot'"),
        ([{"role": ["user"], "content": "q"}], r"messages\[0\]\.role is \['user'\]"),
        ([USER, {"role": "user"}], r"messages\[1\]\.content is missing"),
        ([{"role": "user", "content": None}], r"messages\[0\]\.content is missing"),
        ([{"role": "system"}], r"messages\[0\]\.content is missing"),
        ([USER, {"role": "assistant"}], r"messages\[1\]\.content is missing"),
        ([{"role": "user", "content": 3}], r"messages\[0\]\.content must be a string or a list"),
        ([{"role": "system", "content": ["s"]}], r"messages\[0\]\.content must be a string"),
        ([{"role": "developer", "content": ""}], r"messages\[0\]\.content is empty"),
        ([{"role": "user", "content": ["q"]}], r"messages\[0\]\.content\[0\] must be a block"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}],
            r"messages\[0\]\.content\[0\] must be a block of type text",
        ),
        (
            [USER, {"role": "assistant", "content": "x", "reasoning": "r"}],
            r"messages\[1\]\.reasoning means nothing in a assistant message",
        ),
        ([USER | {"tools": TOOLS}], r"messages\[0\]\.tools means nothing in a user message"),
        (
            [USER, {"role": "assistant", "content": "x", "reasoning_content": 1}],
            r"messages\[1\]\.reasoning_content must be a string, found int",
        ),
        (
            [USER, {"role": "assistant", "content": "x", "wo_eos": "yes"}],
            r"messages\[1\]\.wo_eos must be true or false",
        ),
        ([USER | {"task": "poem"}], r"messages\[0\]\.task is 'poem': use one of action, query"),
        ([USER | {"task": "query"}, USER], r"messages\[0\]\.task needs the next message"),
        ([USER, USER | {"task": "query"}], r"messages\[1\]\.task would be lost"),
        ([USER, CALLING | {"tool_calls": CALL}], r"messages\[1\]\.tool_calls must be a list"),
        ([USER, CALLING | {"tool_calls": ["f"]}], r"messages\[1\]\.tool_calls\[0\] must be a dict"),
        ([USER, with_call(function={"arguments": "{}"})], r"tool_calls\[0\]\.function\.name must"),
        (
            [USER, with_call(function={"name": "f", "arguments": {}})],
            r"messages\[1\]\.tool_calls\[0\]\.function\.arguments must be a string of JSON",
        ),
        ([USER, with_call(id=1)], r"messages\[1\]\.tool_calls\[0\]\.id must be a string"),
        (
            [USER, {"role": "tool", "content": "r"}],
            r"messages\[1\]\.role is 'tool', but no tool call",
        ),
        (
            [
                USER,
                CALLING,
                {"role": "assistant", "content": "x"},
                {"role": "tool", "content": "r"},
            ],
            r"messages\[3\]\.role is 'tool', but no tool call",
        ),
        (
            [USER, CALLING, {"role": "tool", "content": "r", "tool_call_id": "2"}],
            r"messages\[2\]\.tool_call_id is '2', but the assistant's calls before it are 1",
        ),
        (
            [USER, CALLING, {"role": "tool", "content": "r", "tool_call_id": 1}],
            r"messages\[2\]\.tool_call_id must be a string",
        ),
        (
            [USER, CALLING, {"role": "tool", "tool_call_id": "1"}],
            r"messages\[2\]\.content is missing",
        ),
        (
            [USER, CALLING, {"role": "tool", "content": 5}],
            r"messages\[2\]\.content must be a string or a list, found int",
        ),
        (
            [USER, CALLING, {"role": "tool", "content": ["r"]}],
            r"messages\[2\]\.content must hold blocks",
        ),
        (
            [USER, CALLING, {"role": "tool", "content": [{"type": "text", "text": 1}]}],
            r"messages\[2\]\.content holds a text block whose text is int",
        ),
        (
            [{"role": "system", "content": "s", "tools": [{"name": "f"}]}],
            r"messages\[0\]\.tools\[0\] must be",
        ),
        (
            [{"role": "system", "content": "s", "tools": "f"}],
            r"messages\[0\]\.tools must be a list, found str",
        ),
    ],
)
def test_malformed_message_is_named(messages: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        render(messages)
    assert "\n" not in str(raised.value)
    assert str(raised.value).endswith(".")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"effort": "low"}, "effort 'low' is unknown to the preview profile: .* high, max"),
        ({"effort": "ultra", "profile": "0813"}, "effort 'ultra' is unknown to the 0813 profile"),
        ({"profile": "v4"}, "profile 'v4' is unknown: use one of preview, 0813"),
        ({"tools": [{"function": {}}]}, r"tools\[0\] must be"),
        ({"tools": [{"function": {"name": "f", "x": {1, 2}}}]}, "A tool cannot be written as JSON"),
        ({"response_format": {1, 2}}, "response_format cannot be written as JSON"),
    ],
)
def test_malformed_option_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        render([USER], **options)


def test_tools_or_format_given_twice_are_refused() -> None:
    system = {"role": "system", "content": "s", "tools": TOOLS, "response_format": {"a": 1}}
    with pytest.raises(InputError, match="tools are given twice"):
        render([system, USER], tools=TOOLS)
    with pytest.raises(InputError, match="response_format is given twice"):
        render([system, USER], response_format={"type": "object"})


def test_a_conversation_is_not_changed_by_rendering() -> None:
    messages = [USER, CALLING, {"role": "tool", "content": "r", "tool_call_id": "1"}]
    before = repr(messages)
    render(messages, tools=TOOLS, thinking=True)
    assert repr(messages) == before


def test_fields_that_never_reach_a_prompt_are_accepted() -> None:
    assert render([USER | {"mask": 1, "name": "ann", "refusal": None}]) == render([USER])
