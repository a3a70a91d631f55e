"""Chat Completions requests become the ids that deepseek-recipe makes of the same JSON.

The recipe is what DeepSeek's own API is built on. The draws stay where both take a request: no
images, every call answered, the word `json` only where we ask for a schema; other differences are
tests of their own below.
"""

import json
from typing import Any

import deepseek_recipe as recipe
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dougong
from dougong.api import Model
from dougong.errors import InputError
from dougong.server.chat_request import read_chat

MODEL = "DeepSeek-V4-Pro"
Body = dict[str, Any]


@pytest.fixture(scope="module")
def nano() -> Model:
    return dougong.load("nano")


@pytest.fixture(scope="module")
def encoding(nano: Model) -> recipe.DeepseekV4Encoding:
    text = nano.tokenizer._inner.to_str()
    return recipe.DeepseekV4Encoding().with_tokenizer(recipe.Tokenizer.from_str(text))


def their_ids(encoding: recipe.DeepseekV4Encoding, body: Body) -> list[int]:
    options = recipe.ConversionOptions(default_thinking_mode=False)
    request = recipe.ChatCompletionRequest(json.dumps({"model": MODEL, **body}))
    return encoding.encode(request.convert(options).conversation)


def our_ids(nano: Model, body: Body) -> list[int]:
    question = read_chat(body, MODEL, profile="0813").question
    return list(question.jobs(nano, 1 << 20)[0].prompt_ids)


texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=5) | st.sampled_from(
    ["the key ", "\n", "<think>", "｜DSML｜", "<｜end▁of▁sentence｜>", "</tool_result>"]
)
names = st.text("abc_", min_size=1, max_size=4)
contents = texts | st.lists(
    texts.map(lambda text: {"type": "text", "text": text}), min_size=1, max_size=2
)
properties = st.dictionaries(
    names, st.builds(dict, type=st.sampled_from(["string", "integer"]), title=texts), max_size=2
)
schemas = st.builds(dict, type=st.just("object"), properties=properties)


@st.composite
def tools(draw: st.DrawFn) -> Body:
    function: Body = {"name": draw(names)}
    for key, values in (("parameters", schemas), ("description", texts)):
        if draw(st.booleans()):
            function[key] = draw(values)
    return {"type": "function", "function": function}


@st.composite
def bodies(draw: st.DrawFn) -> Body:
    body: Body = {}
    if shown := draw(
        st.lists(tools(), max_size=2, unique_by=lambda tool: tool["function"]["name"])
    ):
        body["tools"] = shown
    elif draw(st.booleans()):
        form = {"name": "x", "schema": draw(schemas)}
        body["response_format"] = {"type": "json_schema", "json_schema": form}
    if draw(st.booleans()):
        efforts = ["none", "minimal", "low", "medium", "high", "xhigh", "ultra", "max"]
        body["reasoning_effort"] = draw(st.sampled_from(efforts))
    elif draw(st.booleans()):
        body["thinking"] = {"type": draw(st.sampled_from(["enabled", "disabled"]))}
    body["messages"] = draw(messages(thinks=thinks(body), with_tools=bool(shown)))
    return body


def thinks(body: Body) -> bool:
    effort = body.get("reasoning_effort", "none")
    return effort != "none" or body.get("thinking") == {"type": "enabled"}


@st.composite
def messages(draw: st.DrawFn, thinks: bool, with_tools: bool) -> list[Body]:
    """Turns, with what the system says anywhere among them."""
    found: list[Body] = []
    for turn in range(draw(st.integers(0, 2))):
        if draw(st.booleans()):
            found.append({"role": "system", "content": draw(contents)})
        found.append({"role": "user", "content": draw(contents)})
        answer: Body = {"role": "assistant", "content": draw(contents)}
        # with tools the recipe goes by each message's reasoning, the release's encoder by the mode
        if thinks or not with_tools and draw(st.booleans()):
            answer["reasoning_content"] = draw(texts)
        found.append(answer)
        if with_tools and draw(st.booleans()):
            function = {"name": draw(names), "arguments": json.dumps({"a": draw(texts)})}
            call = {"id": f"call_{turn}", "type": "function", "function": function}
            answer["tool_calls"] = [call]
            result = {"role": "tool", "tool_call_id": f"call_{turn}", "content": draw(contents)}
            found.append(result)
    found.append({"role": "user", "content": draw(contents)})
    return found


@settings(max_examples=250, deadline=None)
@given(body=bodies())
def test_ids_equal_the_recipes(
    nano: Model, encoding: recipe.DeepseekV4Encoding, body: Body
) -> None:
    assert our_ids(nano, body) == their_ids(encoding, body)


def test_what_openai_calls_developer_is_the_system(
    nano: Model, encoding: recipe.DeepseekV4Encoding
) -> None:
    question = {"role": "user", "content": "Hi!"}
    ours = our_ids(nano, {"messages": [{"role": "developer", "content": "Be kind."}, question]})
    body = {"messages": [{"role": "system", "content": "Be kind."}, question]}
    assert ours == their_ids(encoding, body)


def test_a_call_that_must_come_is_begun_by_the_grammar_not_by_the_prompt(
    nano: Model, encoding: recipe.DeepseekV4Encoding
) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    body = {"messages": [{"role": "user", "content": "Hi!"}], "tools": [tool]}
    theirs = their_ids(encoding, {**body, "tool_choice": "required"})
    begun = nano.tokenizer.decode(theirs).removeprefix(nano.tokenizer.decode(our_ids(nano, body)))
    assert begun == "\n\n<｜DSML｜tool_calls>\n"
    assert our_ids(nano, {**body, "tool_choice": "required"}) == our_ids(nano, body)


@pytest.mark.parametrize(
    ("messages", "sentence"),
    [
        ([{"role": "system", "content": "Be kind."}], "must end with a user's"),
        (
            [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
            "must end with a user's",
        ),
        (
            [{"role": "system", "content": "a"}, {"role": "user", "content": 3}],
            r"messages\[1\].content must be",
        ),
        ([{"role": "system", "content": "a", "tools": []}], "tools belongs beside messages"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], r"messages\[0\].content\[0\]"),
    ],
)
def test_what_would_be_lost_on_the_model_is_refused(messages: list[Body], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        read_chat({"messages": messages}, MODEL)


@pytest.mark.parametrize(
    ("asked", "effort"),
    [("minimal", "high"), ("low", "high"), ("medium", "high"), ("xhigh", "max"), ("max", "max")],
)
def test_the_preview_takes_efforts_as_its_api_did(asked: str, effort: str) -> None:
    messages = [{"role": "user", "content": "Hi!"}]
    question = read_chat({"messages": messages, "reasoning_effort": asked}, MODEL).question
    assert (question.thinking, question.effort) == (True, effort)
