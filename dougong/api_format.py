"""`response_format` and `tool_choice`: what of OpenAI's forms becomes a grammar, and which."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from dougong.chat.messages import read_tools
from dougong.engine.grammar import GrammarSpec
from dougong.errors import InputError

Tools = Sequence[Mapping[str, Any]]
TYPES = ("text", "json_object", "json_schema", "regex", "grammar")


def grammar_of(
    response_format: Mapping[str, Any] | None, tools: Tools, tool_choice: str | Mapping[str, Any]
) -> GrammarSpec | None:
    """What an answer is held to: its format, or calls of `tools` (those that the model is shown).

    Raises: InputError if a form is malformed, or format and tools are both asked for.
    """
    spec = _format(response_format)
    choice = _choice(tool_choice, tools)
    if spec is not None and tools:
        raise InputError(
            "response_format and tools exclude each other here: an answer in a given form has no "
            'place for a call; leave one out, or send tool_choice "none".'
        )
    if not tools or choice is None:
        return spec
    called = [tool for tool in tools if choice in ("auto", "required", tool["function"]["name"])]
    kind = "auto" if choice == "auto" else "required"
    return GrammarSpec("tools", _text({"tools": [_plain(tool) for tool in called], "choice": kind}))


def schema_of(response_format: Mapping[str, Any] | None) -> Any:
    """The JSON schema that V4's prompt tells the model of; None for all other formats."""
    spec = _format(response_format)
    return json.loads(spec.text) if spec is not None and spec.kind == "json_schema" else None


def told_tools(tools: Tools) -> list[Mapping[str, Any]]:
    """Tools as the prompt tells of them: how strictly they are meant is the grammar's affair.

    Raises: InputError if one is malformed.
    """
    functions = [dict(function) for function in read_tools(tools, "tools")]
    for function in functions:
        function.pop("strict", None)
    return [{"type": "function", "function": function} for function in functions]


def _format(given: Mapping[str, Any] | None) -> GrammarSpec | None:
    if given is None:
        return None
    kind = given.get("type") if isinstance(given, Mapping) else None
    if kind not in TYPES:
        raise InputError(f"response_format: its type is {kind!r:.100}; use {', '.join(TYPES)}.")
    if kind == "text":
        return None
    if kind == "json_object":
        return GrammarSpec("json_object", "")
    value = given.get(kind)
    if kind == "json_schema":
        schema = value.get("schema") if isinstance(value, Mapping) else None
        if not isinstance(schema, Mapping):
            raise InputError("response_format: json_schema must hold a schema, an object.")
        return GrammarSpec("json_schema", _text(schema))
    if not isinstance(value, str) or not value:
        raise InputError(f"response_format: {kind} must be a string.")
    return GrammarSpec("regex" if kind == "regex" else "grammar", value)


def _choice(given: str | Mapping[str, Any], tools: Tools) -> str | None:
    """ "auto" with a strict tool, "required", or a tool's name; None: the model is free."""
    if given == "none":
        return None
    names = [str(function["name"]) for function in read_tools(tools, "tools")]
    if given == "auto":
        return "auto" if any(tool["function"].get("strict") for tool in tools) else None
    if given == "required" and names:
        return "required"
    function = given.get("function") if isinstance(given, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if isinstance(name, str) and name in names:
        return name
    raise InputError(
        f"tool_choice is {given!r:.100}; use auto, none, required or one of the tools: "
        f"{', '.join(names) or 'there are none'}."
    )


def _plain(tool: Mapping[str, Any]) -> dict[str, Any]:
    """What the grammar needs of a tool."""
    function = tool["function"]
    parameters = function.get("parameters") or {"type": "object", "properties": {}}
    return {
        "type": "function",
        "function": {"name": function["name"], "parameters": parameters, "strict": True},
    }


def _text(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as problem:
        raise InputError(f"a schema cannot be written as JSON: {problem}.") from None
