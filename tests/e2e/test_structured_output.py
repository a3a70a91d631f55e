"""Answers held to a schema, a regex, a grammar or tool calls; and grammars that mean no good."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Literal

import pydantic
import pytest
import torch

import dougong
from dougong.api_question import Question
from dougong.chat import special
from dougong.engine.engine import EngineError
from dougong.engine.grammar import MAX_TEXT, Grammars, GrammarSpec
from dougong.engine.settings import DraftSettings
from dougong.errors import InputError


class Bear(pydantic.BaseModel):
    """Read by pydantic, which xgrammar does not use to enforce it."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True)
    name: str = pydantic.Field(min_length=1, max_length=8)
    age: int = pydantic.Field(ge=1, le=40)
    mood: Literal["glad", "sad"]
    friends: list[Literal["Tom", "Ann"]] = pydantic.Field(max_length=2)


SCHEMA = {
    "type": "json_schema",
    "json_schema": {"name": "bear", "schema": Bear.model_json_schema()},
}
TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {
            "type": "object",
            "properties": {
                "a": {"type": "integer", "minimum": 0, "maximum": 99},
                "note": {"type": "string", "maxLength": 8},
            },
            "required": ["a", "note"],
        },
    },
}
OTHER = {"type": "function", "function": {"name": "wait"}}
ASK = ["Tell me about a bear."]


@pytest.fixture(scope="module")
def engine() -> Iterator[dougong.Engine]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    drafts = DraftSettings(lookup=7, always=True)
    with dougong.Engine("nano", drafts=drafts) as started:
        yield started
    torch.set_num_threads(threads)


def test_answers_follow_a_json_schema(engine: dougong.Engine) -> None:
    answers = engine.generate(ASK, n=6, temperature=1.5, max_tokens=400, response_format=SCHEMA)
    finished = [answer for answer in answers if answer.finish_reason == "stop"]
    assert len(finished) >= 3
    for answer in finished:
        Bear.model_validate_json(answer.text)


def test_answers_are_json_objects_where_no_schema_is_given(engine: dougong.Engine) -> None:
    answers = engine.generate(
        ASK, n=4, max_tokens=300, response_format={"type": "json_object"}, seed=3
    )
    found = [json.loads(answer.text) for answer in answers if answer.finish_reason == "stop"]
    assert found
    assert all(isinstance(value, dict) for value in found)


@pytest.mark.parametrize("pattern", ["(red|green) [0-9]{2,4}!", "[a-c]+é?", "x{3,5}"])
def test_answers_follow_a_regex(engine: dougong.Engine, pattern: str) -> None:
    form = {"type": "regex", "regex": pattern}
    answers = engine.generate(ASK, n=4, temperature=2.0, max_tokens=60, response_format=form)
    for answer in answers:
        if answer.finish_reason == "stop":
            assert re.fullmatch(pattern, answer.text)
    assert any(answer.finish_reason == "stop" for answer in answers)


def test_answers_follow_a_grammar(engine: dougong.Engine) -> None:
    form = {"type": "grammar", "grammar": 'root ::= "yes" | "no" ", never"'}
    answers = engine.generate(ASK, n=8, temperature=3.0, response_format=form)
    assert {answer.text for answer in answers} <= {"yes", "no, never"}
    assert {answer.finish_reason for answer in answers} == {"stop"}


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "add"}}])
def test_tools_that_must_be_called_are_called_as_they_want(
    engine: dougong.Engine, choice: Any
) -> None:
    tools = [TOOL] if choice == "required" else [OTHER, TOOL]
    answers = engine.generate(ASK, n=4, tools=tools, tool_choice=choice, max_tokens=400)
    called = [answer for answer in answers if answer.finish_reason == "tool_calls"]
    assert called
    for answer in called:
        assert answer.errors == ()
        for call in answer.tool_calls:
            arguments = json.loads(call.arguments)
            assert call.name == "add"
            assert {name: type(value) for name, value in arguments.items()} == {
                "a": int, "note": str,
            }  # fmt: skip


def test_reasoning_is_free_and_the_answer_is_not(engine: dougong.Engine) -> None:
    end = engine.model.tokenizer.special_id(special.END_THINK)
    form = {"type": "regex", "regex": "[0-9]+"}
    (answer,) = engine.generate(
        ASK, thinking=True, response_format=form, logit_bias={end: 4.0}, seed=1, max_tokens=300
    )
    assert end in answer.ids
    assert answer.reasoning
    assert re.fullmatch("[0-9]*", answer.text)


def test_answers_with_grammars_do_not_depend_on_each_other(engine: dougong.Engine) -> None:
    forms = [SCHEMA, None, {"type": "regex", "regex": "(ab|ba)*"}, {"type": "json_object"}]
    asked = [{"response_format": form, "seed": i, "max_tokens": 40} for i, form in enumerate(forms)]
    alone = [engine.generate(ASK, logprobs=0, **one)[0] for one in asked]
    jobs = [job for one in asked for job in engine.ask(Question(prompt=ASK[0], logprobs=0, **one))]
    for reply, answer in zip(engine.jobs.generate(jobs), alone, strict=True):
        assert (reply.ids, reply.logprobs) == (answer.ids, answer.logprobs)


def test_an_answer_that_is_cut_off_is_the_beginning_of_its_form(engine: dougong.Engine) -> None:
    form = {"type": "regex", "regex": "(熊é)+!"}  # characters of three and two tokens
    texts = []
    for most in range(1, 9):
        (answer,) = engine.generate(ASK, response_format=form, max_tokens=most, seed=most)
        assert answer.finish_reason == "length" or answer.text.endswith("!")
        texts.append(answer.text.removesuffix("!"))
    assert all(("熊é" * 9).startswith(text) for text in texts)
    assert len(set(texts)) > 2
    (whole,) = engine.generate(ASK, response_format=SCHEMA, max_tokens=400, seed=1)
    (cut,) = engine.generate(ASK, response_format=SCHEMA, max_tokens=9, seed=1)
    assert whole.text.startswith(cut.text)
    assert cut.finish_reason == "length"


def test_a_stop_string_ends_an_answer_of_a_given_form(engine: dougong.Engine) -> None:
    form = {"type": "regex", "regex": "(ab|ba){40}"}
    asked: dict[str, Any] = {"response_format": form, "seed": 4, "max_tokens": 200}
    (whole,) = engine.generate(ASK, **asked)
    (cut,) = engine.generate(ASK, stop=["bb"], **asked)
    assert cut.text == whole.text.partition("bb")[0]
    assert (cut.finish_reason, len(whole.text)) == ("stop", 80)


def test_an_ambiguous_grammar_is_given_up_and_costs_nobody_else_an_answer(
    engine: dougong.Engine,
) -> None:
    rules = "".join(f'a{i} ::= a{i + 1} a{i + 1} | "x" | ""\n' for i in range(12))
    form = {"type": "grammar", "grammar": f'root ::= a0\n{rules}a12 ::= "x" | ""'}
    likely = {engine.model.encode("x", raw=True)[-1]: 100.0}
    questions = [
        Question(prompt=ASK[0], response_format=form, logit_bias=likely, max_tokens=2_000),
        Question(prompt=ASK[0], max_tokens=60, seed=2),
    ]
    slow, plain = engine.jobs.generate([job for q in questions for job in engine.ask(q)])
    assert slow.error is not None
    assert "make it less ambiguous" in slow.error
    assert plain.ids == engine.generate(ASK, max_tokens=60, seed=2)[0].ids


def test_a_known_grammar_waits_for_no_other(engine: dougong.Engine) -> None:
    grammars = Grammars(engine.model.tokenizer)
    known = GrammarSpec("regex", "[ab]+")
    try:
        compiled = grammars.compile(known).compiled
        with grammars._child_lock:  # as while another is compiled
            assert grammars.compile(known, thinking=True).compiled is compiled
    finally:
        grammars.close()
    with pytest.raises(EngineError, match="closed"):
        grammars.compile(GrammarSpec("regex", "[cd]+"))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"response_format": {"type": "poem"}}, "its type is 'poem'"),
        ({"response_format": {"type": "json_schema"}}, "must hold a schema"),
        ({"response_format": {"type": "regex", "regex": "(a"}}, "the regex cannot be used"),
        ({"response_format": {"type": "regex", "regex": "(?=a)b"}}, "Lookahead"),
        ({"response_format": {"type": "regex", "regex": "a" * (MAX_TEXT + 1)}}, "characters"),
        ({"response_format": {"type": "grammar", "grammar": 'root ::= "a'}}, "Expect"),
        (
            {"response_format": {"type": "grammar", "grammar": "root ::= root"}},
            "nothing can follow",
        ),
        ({"response_format": SCHEMA, "tools": [TOOL]}, "exclude each other"),
        ({"tool_choice": "required"}, "there are none"),
        ({"tool_choice": {"type": "function", "function": {"name": "x"}}, "tools": [TOOL]}, "add"),
    ],
)
def test_what_cannot_be_held_to_is_refused_in_one_sentence(
    engine: dougong.Engine, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InputError, match=re.escape(sentence)):
        engine.generate(ASK, **options)


@pytest.mark.parametrize(
    "schema",
    [
        {"not": {"type": "integer"}},
        {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}},
        {"anyOf": [{"if": {"type": "integer"}, "then": {"minimum": 3}}]},
        {"$ref": "http://example.org/schema.json"},
        {"$ref": "#/$defs/missing"},
        {"allOf": [{"type": "integer"}, {"minimum": 3}]},
        {"type": "poem"},
        {"enum": []},
    ],
)
def test_a_schema_that_would_not_be_enforced_is_refused(
    engine: dougong.Engine, schema: dict[str, Any]
) -> None:
    form = {"type": "json_schema", "json_schema": {"schema": schema}}
    with pytest.raises(InputError, match="the JSON schema cannot be used: "):
        engine.generate(ASK, response_format=form)


def test_property_names_are_no_keywords(engine: dougong.Engine) -> None:
    schema = {
        "type": "object",
        "properties": {"not": {"const": 1}, "if": {"enum": [{"contains": 2}]}},
        "required": ["not", "if"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"schema": schema}}
    (answer,) = engine.generate(ASK, response_format=form)
    assert json.loads(answer.text) == {"not": 1, "if": {"contains": 2}}


def test_hostile_grammars_cost_their_sender_and_nobody_else(engine: dougong.Engine) -> None:
    grammars = Grammars(engine.model.tokenizer, seconds=3.0, num_bytes=2**28)
    try:
        with pytest.raises(InputError, match=r"takes (more than 3 s|too much memory)"):
            grammars.compile(GrammarSpec("regex", "|".join(f"x{i}y" for i in range(20_000))))
        for text in ("(a*)*b", "((a+)+)+c", "(a{1,900}){1,900}"):
            guide = grammars.compile(GrammarSpec("regex", text)).guide()
            allowed = guide.allowed()
            assert allowed is not None
            assert 0 < int(allowed.sum()) < len(allowed)
    finally:
        grammars.close()


def test_a_grammar_that_needs_too_much_memory_is_refused(engine: dougong.Engine) -> None:
    grammars = Grammars(engine.model.tokenizer, seconds=60.0, num_bytes=2**24)
    wide = {f"p{i}": {"type": "string", "pattern": "(ab){1,50}"} for i in range(2_000)}
    schema = json.dumps({"type": "object", "properties": wide})
    try:
        with pytest.raises(InputError, match="takes too much memory"):
            grammars.compile(GrammarSpec("json_schema", schema))
    finally:
        grammars.close()
