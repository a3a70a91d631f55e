"""Prompts and their ids equal deepseek-recipe's on random conversations where both apply.

DeepSeek's deepseek-recipe 0.2.0 is another implementation than the encoder that came with the V4
release, so these draws stay where the two agree on the meaning of a conversation: one system
message at the front, no developer message or task, reminders only before a question, no question
that stands before a tool result, every call with arguments, and a question at the end (the recipe
always opens an answer).
"""

import json
from dataclasses import dataclass, field
from typing import Any

import deepseek_recipe as recipe
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dougong.chat import Tokenizer, encode_conversation, render
from dougong.chat.train_bpe import train_bpe

TEXTS = ["what opens the door? the key opens the door. 12 12 你好"] * 3

# Our profile and effort -> the recipe's effort.
EFFORTS: dict[tuple[str, str | None], str] = {
    ("preview", None): "low",
    ("preview", "high"): "low",
    ("preview", "max"): "high",
    ("0813", None): "low",
    ("0813", "low"): "low",
    ("0813", "high"): "high",
    ("0813", "max"): "max",
}

fragments = st.sampled_from(
    ["the key ", "12", "\n", "\n\n", " ", "é☃", "你好", "<｜User｜>", "<think>", "</think>"]
    + ["｜DSML｜", "<｜end▁of▁sentence｜>", "</tool_result>", '">', "<｜action｜>"]
)
any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
texts = st.lists(fragments | any_text, max_size=4).map("".join)
# The recipe leaves an empty question out when it joins two; the release's encoder does not.
questions = texts.filter(bool)
names = st.text("abc_", min_size=1, max_size=5)
# The recipe writes exponents its own way (1e16 for Python's 1e+16): floats stay below that.
numbers = st.integers(-(2**53), 2**53) | st.integers(-(10**6), 10**6).map(lambda n: n / 64)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(names, inner, max_size=2),
    max_leaves=4,
)


@dataclass
class Drawn:
    """One conversation, in our form and in the recipe's."""

    tools: list[dict[str, Any]]
    thinking: bool
    ours: list[dict[str, Any]] = field(default_factory=list)
    theirs: list[recipe.Message] = field(default_factory=list)
    num_calls: int = 0

    def user(self, text: str) -> None:
        self.ours.append({"role": "user", "content": text})
        self.theirs.append(recipe.UserMessage(text))

    def reminder(self, text: str) -> None:
        self.ours.append({"role": "latest_reminder", "content": text})
        self.theirs.append(recipe.LatestReminderMessage(text))

    def assistant(self, content: str, reasoning: str | None, calls: list[tuple[str, str]]) -> None:
        ids = [f"call_{self.num_calls + i}" for i in range(len(calls))]
        self.num_calls += len(calls)
        message = {"role": "assistant", "content": content, "reasoning_content": reasoning}
        message["tool_calls"] = [
            {"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}
            for id_, (name, arguments) in zip(ids, calls, strict=True)
        ]
        self.ours.append(message)
        their_calls = [recipe.ToolCall(id_, *call) for id_, call in zip(ids, calls, strict=True)]
        self.theirs.append(recipe.AssistantMessage(content, reasoning, their_calls or None))

    def result(self, text: str, call: int) -> None:
        self.ours.append({"role": "tool", "content": text, "tool_call_id": f"call_{call}"})
        self.theirs.append(recipe.ToolMessage(text, f"call_{call}"))


@st.composite
def functions(draw: st.DrawFn) -> dict[str, Any]:
    schema = draw(st.dictionaries(names, values, max_size=2))
    return {"name": draw(names), "description": draw(texts), "parameters": schema}


@st.composite
def conversations(draw: st.DrawFn) -> Drawn:
    drawn = Drawn(draw(st.lists(functions(), max_size=2)), draw(st.booleans()))
    reasonings = st.none() | texts
    if drawn.tools:
        # With tools the recipe goes by each message's reasoning, the release's encoder by the mode.
        reasonings = texts if drawn.thinking else st.none()
    if draw(st.booleans()):
        system = draw(texts)
        drawn.ours.append({"role": "system", "content": system})
        drawn.theirs.append(recipe.SystemMessage(system))
    arguments = st.dictionaries(names, values, min_size=1, max_size=2).map(json.dumps)
    calls = st.lists(st.tuples(names, arguments | st.sampled_from(["not json", "[1]"])), max_size=3)
    for _ in range(draw(st.integers(0, 3))):
        if drawn.ours and drawn.ours[-1]["role"] != "tool" and draw(st.booleans()):
            drawn.reminder(draw(texts))
        drawn.user(draw(questions))
        made = draw(calls)
        drawn.assistant(draw(texts), draw(reasonings), made)
        first = drawn.num_calls - len(made)
        for call in draw(st.permutations(range(first, drawn.num_calls))):
            drawn.result(draw(texts), call)
        if made and draw(st.booleans()):
            drawn.assistant(draw(texts), draw(reasonings), [])
    for text in draw(st.lists(questions, min_size=1, max_size=2)):
        drawn.user(text)
    return drawn


@pytest.fixture(scope="module")
def tokenizers() -> tuple[Tokenizer, recipe.DeepseekV4Encoding]:
    inner = train_bpe(TEXTS, 320)
    theirs = recipe.Tokenizer.from_str(inner.to_str())
    return Tokenizer(inner), recipe.DeepseekV4Encoding().with_tokenizer(theirs)


@settings(max_examples=300)
@given(
    drawn=conversations(),
    schema=st.none() | st.dictionaries(names, values, min_size=1, max_size=2),
    effort=st.sampled_from(list(EFFORTS)),
)
def test_text_and_ids_equal_the_recipes(
    tokenizers: tuple[Tokenizer, recipe.DeepseekV4Encoding],
    drawn: Drawn,
    schema: dict[str, Any] | None,
    effort: tuple[str, str | None],
) -> None:
    tokenizer, encoding = tokenizers
    conversation = recipe.Conversation(
        drawn.theirs,
        thinking_mode=drawn.thinking,
        tools=[recipe.ToolDefinition(**function) for function in drawn.tools],
        response_schema=schema,
        reasoning_effort=EFFORTS[effort],
    )
    options = {
        "tools": [{"type": "function", "function": function} for function in drawn.tools],
        "response_format": schema,
        "thinking": drawn.thinking,
        "profile": effort[0],
        "effort": effort[1],
    }
    assert render(drawn.ours, **options) == encoding.render_conversation(conversation).prompt
    ids = encode_conversation(tokenizer, drawn.ours, **options)
    assert ids == encoding.encode(conversation)
    assert tokenizer.decode(ids) == render(drawn.ours, **options)


def test_a_call_without_arguments_keeps_the_official_empty_line() -> None:
    """The one known difference: the release's encoder joins no parameters into an empty line."""
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    ours = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "content": "r", "tool_call_id": "1"},
    ]
    calls = [recipe.ToolCall("1", "f", "{}")]
    theirs = [
        recipe.UserMessage("q"),
        recipe.AssistantMessage("", None, calls),
        recipe.ToolMessage("r", "1"),
    ]
    rendered = recipe.DeepseekV4Encoding().render_conversation(
        recipe.Conversation(theirs, thinking_mode=False)
    )
    assert '<｜DSML｜invoke name="f">\n</｜DSML｜invoke>' in rendered.prompt
    expected = rendered.prompt.replace('"f">\n</', '"f">\n\n</')
    assert render(ours) == expected
