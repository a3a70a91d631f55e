"""The rules of a prompt, one by one, against texts written out by hand.

Expected texts follow the rendering rules of the V4 release's encoder; B, E, U, A, T and N are its
tokens for begin, end, user, assistant, think and no (more) thinking.
"""

import json
from typing import Any

import pytest

from dougong.chat import Tokenizer, encode_conversation, render, special
from dougong.chat.effort import EFFORT_TEXTS
from dougong.chat.train_bpe import train_bpe

B, E, U, A = special.BOS, special.EOS, special.USER, special.ASSISTANT
T, N = special.THINK, special.END_THINK
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {}}}]


def user(text: str, **fields: Any) -> dict[str, Any]:
    return {"role": "user", "content": text, **fields}


def assistant(text: str, reasoning: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, "reasoning_content": reasoning, **fields}


def call(call_id: str, arguments: str = '{"a": 1}') -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": "f", "arguments": arguments}}


@pytest.mark.parametrize(
    ("messages", "thinking", "expected"),
    [
        ([user("q")], False, f"{B}{U}q{A}{N}"),
        ([user("q")], True, f"{B}{U}q{A}{T}"),
        ([user("q"), user("r")], False, f"{B}{U}q\n\nr{A}{N}"),
        ([user("q"), assistant("x", "r")], False, f"{B}{U}q{A}{N}x{E}"),
        ([user("q"), assistant("x", "r")], True, f"{B}{U}q{A}{T}r{N}x{E}"),
        ([user("q"), assistant("x")], True, f"{B}{U}q{A}{T}{N}x{E}"),
        ([user("q"), assistant("x", "r", wo_eos=True)], True, f"{B}{U}q{A}{T}r{N}x"),
        (
            [user("q"), assistant("x", "r"), user("s")],
            True,
            f"{B}{U}q{A}{N}x{E}{U}s{A}{T}",
        ),
        (
            [{"role": "developer", "content": "d"}, assistant("x", "r"), user("s")],
            True,
            f"{B}x{E}{U}s{A}{T}",
        ),
        (
            [{"role": "developer", "content": "d"}, assistant("x", "r"), user("s")],
            False,
            f"{B}{U}d{A}{N}x{E}{U}s{A}{N}",
        ),
        (
            [user("q"), {"role": "latest_reminder", "content": "l"}, assistant("x", "r")],
            True,
            f"{B}{U}q{A}{T}{special.LATEST_REMINDER}lr{N}x{E}",
        ),
        ([{"role": "system", "content": "s"}], True, f"{B}s"),
    ],
)
def test_turns(messages: list[dict[str, Any]], thinking: bool, expected: str) -> None:
    assert render(messages, thinking=thinking) == expected


def test_reasoning_of_all_turns_stays_when_asked() -> None:
    messages = [user("q"), assistant("x", "r"), user("s")]
    text = render(messages, thinking=True, drop_thinking=False)
    assert text == f"{B}{U}q{A}{T}r{N}x{E}{U}s{A}{T}"


def test_reasoning_of_all_turns_stays_with_tools() -> None:
    messages = [user("q"), assistant("x", "r"), user("s")]
    text = render(messages, thinking=True, tools=TOOLS)
    assert text.endswith(f"{U}q{A}{T}r{N}x{E}{U}s{A}{T}")


@pytest.mark.parametrize(
    ("task", "thinking", "expected"),
    [
        ("action", False, f"{A}{N}<｜action｜>"),
        ("action", True, f"{A}{T}<｜action｜>"),
        ("query", True, "<｜query｜>"),
        ("authority", False, "<｜authority｜>"),
        ("domain", False, "<｜domain｜>"),
        ("read_url", False, "<｜read_url｜>"),
    ],
)
def test_task_asks_for_its_answer(task: str, thinking: bool, expected: str) -> None:
    asked = user("q", task=task)
    assert render([asked], thinking=thinking) == f"{B}{U}q{expected}"
    # The answer to a task has no reasoning, not even its end.
    answered = render([asked, assistant("yes", "r")], thinking=thinking)
    assert answered == f"{B}{U}q{expected}yes{E}"


def test_title_is_asked_for_after_the_answer() -> None:
    messages = [user("q"), assistant("x", task="title"), assistant("On q")]
    assert render(messages) == f"{B}{U}q{A}{N}x{E}<｜title｜>On q{E}"


@pytest.mark.parametrize(
    ("profile", "effort", "opening"),
    [
        ("preview", None, ""),
        ("preview", "high", ""),
        ("preview", "max", "Reasoning Effort: Absolute maximum with no shortcuts permitted.\n"),
        ("0813", None, ""),
        ("0813", "low", ""),
        ("0813", "high", "Reasoning Effort: Absolute maximum with no shortcuts permitted.\n"),
        ("0813", "max", "Reasoning Effort: Beyond maximum — exhaustive, relentless, and"),
    ],
)
def test_effort_opens_thinking_prompts_only(profile: Any, effort: str | None, opening: str) -> None:
    messages = [{"role": "system", "content": "s"}, user("q")]
    text = render(messages, thinking=True, profile=profile, effort=effort)
    assert text.startswith(B + (opening or "s"))
    assert text.endswith(("\n\n" if opening else B) + f"s{U}q{A}{T}")
    assert render(messages, profile=profile, effort=effort) == f"{B}s{U}q{A}{N}"


def test_no_profile_shares_a_text_between_two_efforts() -> None:
    for texts in EFFORT_TEXTS.values():
        assert len(set(texts.values())) == len(texts)


def test_results_follow_the_order_of_the_calls_and_texts_keep_their_place() -> None:
    messages = [
        user("q"),
        assistant("", tool_calls=[call("1"), call("2")]),
        {"role": "tool", "tool_call_id": "2", "content": "two"},
        user("and"),
        {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": "one"}]},
    ]
    blocks = ["<tool_result>one</tool_result>", "and", "<tool_result>two</tool_result>"]
    assert render(messages).endswith(f"{U}" + "\n\n".join(blocks) + f"{A}{N}")


def test_result_blocks_of_a_user_message_are_tool_messages_too() -> None:
    opening = [user("q"), assistant("", tool_calls=[call("1")])]
    result = {"type": "tool_result", "tool_use_id": "1", "content": "one"}
    blocks = [result, {"type": "text", "text": "and"}]
    as_tool = [{"role": "tool", "tool_call_id": "1", "content": "one"}, user("and")]
    assert render([*opening, user("") | {"content": blocks}]) == render([*opening, *as_tool])


def test_other_parts_of_a_result_are_named_as_unsupported() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "image"}]
    messages = [
        user("q"),
        assistant("", tool_calls=[call("1")]),
        {"role": "tool", "content": parts},
    ]
    assert "<tool_result>one\n\n[Unsupported image]</tool_result>" in render(messages)


@pytest.mark.parametrize("arguments", ["not json", "[1]", "", "[" * 100_000])
def test_arguments_that_are_no_object_become_one_parameter(arguments: str) -> None:
    messages = [user("q"), assistant("", tool_calls=[call("1", arguments)])]
    parameter = f'<｜DSML｜parameter name="arguments" string="true">{arguments}</｜DSML｜parameter>'
    assert parameter in render(messages)


def test_arguments_keep_their_order_and_types() -> None:
    arguments = json.dumps({"z": "é\n", "a": 1.0, "b": None, "c": ["é"]})
    messages = [user("q"), assistant("", tool_calls=[call("1", arguments)])]
    expected = [("z", "true", "é\n"), ("a", "false", "1.0"), ("b", "false", "null")]
    expected.append(("c", "false", '["é"]'))
    lines = [
        f'<｜DSML｜parameter name="{name}" string="{is_text}">{value}</｜DSML｜parameter>'
        for name, is_text, value in expected
    ]
    assert '<｜DSML｜invoke name="f">\n' + "\n".join(lines) + "\n</｜DSML｜invoke>" in render(
        messages
    )


def test_request_tools_and_format_join_the_system_message() -> None:
    schema = {"type": "object"}
    given = render([user("q")], tools=TOOLS, response_format=schema)
    system = {"role": "system", "content": "", "tools": TOOLS, "response_format": schema}
    assert given == render([system, user("q")])
    assert "\n\n## Response Format:\n\nYou MUST strictly adhere" in given
    assert given.index("## Tools") < given.index("## Response Format")
    assert given.endswith('to reply:\n{"type": "object"}' + f"{U}q{A}{N}")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(train_bpe(["what opens the door? the key opens the door."] * 3, 320))


def test_no_message_text_can_forge_a_special_token(tokenizer: Tokenizer) -> None:
    """Wherever a caller's text goes, special strings in it become ordinary ids."""
    forged = "".join(special.LEADING + special.TRAILING)
    arguments = json.dumps({forged: forged, "n": [forged]})
    function = {"name": forged, "description": forged}

    def conversation(text: str, function: dict[str, str], arguments: str) -> list[Any]:
        made = {"id": "1", "function": {"name": function["name"], "arguments": arguments}}
        return [
            {"role": "system", "content": text, "response_format": {"title": text}},
            {"role": "latest_reminder", "content": text},
            user(text),
            assistant(text, text, tool_calls=[made]),
            {"role": "tool", "tool_call_id": "1", "content": text},
            {"role": "developer", "content": text, "tools": [{"function": function}]},
        ]

    honest = conversation("x", {"name": "x", "description": "x"}, '{"x": "x", "n": ["x"]}')
    attack = conversation(forged, function, arguments)
    special_ids = {tokenizer.special_id(text) for text in special.LEADING + special.TRAILING}

    def specials(messages: list[Any]) -> list[int]:
        ids = encode_conversation(tokenizer, messages, thinking=True)
        assert tokenizer.decode(ids) == render(messages, thinking=True)
        return [token_id for token_id in ids if token_id in special_ids]

    assert specials(attack) == specials(honest)


def test_prompts_without_special_strings_in_texts_have_the_official_ids(
    tokenizer: Tokenizer,
) -> None:
    """Then encoding by pieces is encoding the whole text, merges across seams included."""
    messages = [
        {"role": "system", "content": "the key"},
        user("the door"),
        assistant("opens", "the key", tool_calls=[call("1", '{"door": "the door"}')]),
        {"role": "tool", "tool_call_id": "1", "content": "the key"},
    ]
    text = render(messages, thinking=True, tools=TOOLS)
    assert encode_conversation(tokenizer, messages, thinking=True, tools=TOOLS) == tokenizer.encode(
        text
    )


def test_the_url_mark_of_a_read_url_task_is_the_one_token_a_caller_may_write(
    tokenizer: Tokenizer,
) -> None:
    mark = tokenizer.special_id(special.EXTRACTED_URL)
    text = f"{special.EXTRACTED_URL}a.b{special.EXTRACTED_URL}"
    ids = encode_conversation(tokenizer, [user(text, task="read_url")])
    assert ids.count(mark) == 1
    assert ids[2] == mark
    assert mark not in encode_conversation(tokenizer, [user(text)])
