"""A Chat Completions request, read strictly: every field works or is refused by name.

Beside OpenAI's fields: DeepSeek's `thinking`, and what vLLM and others call top_k, min_p,
repetition_penalty, min_tokens, stop_token_ids and priority. `user` is the tenant: what is cached
for one user no other can find. Messages, tools and efforts are taken as DeepSeek's own API takes
them. Checked by: tests/parity/test_chat_request_against_recipe.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dougong.api_question import Question
from dougong.chat.effort import Profile
from dougong.chat.messages import read_messages
from dougong.errors import InputError


class UnknownModelError(InputError):
    """The request names a model that is not the one here."""


@dataclass(frozen=True)
class ChatRequest:
    """What is asked, and how the answer is to be sent."""

    question: Question
    stream: bool = False
    include_usage: bool = False


# Field of the request -> field of the question; the question checks ranges.
_NUMBERS = {
    name: (name, int | float)
    for name in (
        "temperature", "top_p", "min_p",
        "presence_penalty", "frequency_penalty", "repetition_penalty",
    )
} | {
    name: (field, int)
    for name, field in (
        ("max_tokens", "max_tokens"), ("max_completion_tokens", "max_tokens"), ("seed", "seed"),
        ("n", "n"), ("top_k", "top_k"), ("min_tokens", "min_tokens"), ("priority", "priority"),
    )
}  # fmt: skip
# Fields that a client may send for others' servers, with the values that ask for nothing here.
_WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    "store": (False,),
    "metadata": ({},),
    "service_tier": ("auto", "default"),
    "modalities": (["text"],),
    "parallel_tool_calls": (True,),
}
# OpenAI's words for efforts that a profile does not know -> its own.  Sources: DeepSeek's API
# documentation, guides/thinking_mode, for 0813; the same page of April 2026 for preview.
_EFFORTS: dict[Profile, dict[str, str]] = {
    "preview": {"minimal": "high", "low": "high", "medium": "high", "xhigh": "max", "ultra": "max"},
    "0813": {"minimal": "low", "medium": "high", "xhigh": "high", "ultra": "max"},
}
_FUNCTION_FIELDS = {"name", "description", "parameters", "strict"}


def read_chat(body: Mapping[str, Any], model: str, *, profile: Profile = "preview") -> ChatRequest:
    """The request in a JSON object; fields that are null count as left out.

    Args:   model: the name of the model here.
    Raises: UnknownModelError, InputError naming the field.
    """
    given = {key: value for key, value in body.items() if value is not None}
    name = given.pop("model", model)
    if name != model:
        raise UnknownModelError(f"model {name!r:.100} is not here; this is {model!r}.")
    if "messages" not in given:
        raise InputError("messages is missing; send the conversation as a list of messages.")
    options: dict[str, Any] = {"max_tokens": None, "profile": profile}
    options["prompt"] = _messages(given.pop("messages"))
    if {"max_tokens", "max_completion_tokens"} <= given.keys():
        raise InputError("max_tokens and max_completion_tokens are both given; leave one out.")
    for key, (field, kind) in _NUMBERS.items():
        if key in given:
            value = given.pop(key)
            if not isinstance(value, kind) or isinstance(value, bool):
                what = "a whole number" if kind is int else "a number"
                raise InputError(f"{key} is {value!r:.100}; {what} is wanted.")
            options[field] = value
    for read in _READERS:
        read(given, options)
    stream, stream_options = _flag(given, "stream"), given.pop("stream_options", {})
    if not isinstance(stream_options, dict) or not stream_options.keys() <= {"include_usage"}:
        raise InputError("stream_options may hold include_usage and nothing else.")
    include_usage = _flag(dict(stream_options), "include_usage")
    _refuse_rest(given)
    return ChatRequest(Question(**options), stream, include_usage)


def _refuse_rest(given: dict[str, Any]) -> None:
    for key, value in given.items():
        if key not in _WITHOUT_EFFECT:
            raise InputError(f"{key[:100]!r} is no field that is known here; leave it out.")
        if value not in _WITHOUT_EFFECT[key]:
            raise InputError(f"{key} is {value!r:.100}, which is not possible here; leave it out.")


def _flag(given: dict[str, Any], key: str) -> bool:
    value = given.pop(key, False)
    if not isinstance(value, bool):
        raise InputError(f"{key} is {value!r:.100}; true or false is wanted.")
    return value


def _messages(messages: Any) -> list[dict[str, Any]]:
    """The conversation; whatever the system says stands at its front, in one message."""
    if not isinstance(messages, list):
        raise InputError("messages must be a list of messages, each an object with a role.")
    read = [_joined(message) for message in messages]
    read_messages(read)  # names the message that is malformed by its place in the request
    system = [message for message in read if message["role"] == "system"]
    rest = [message for message in read if message["role"] != "system"]
    if not rest or rest[-1]["role"] not in ("user", "tool"):
        raise InputError("messages must end with a user's or a tool's, which is to be answered.")
    texts = [message["content"] for message in system if message["content"]]
    return [{"role": "system", "content": "\n\n".join(texts)}, *rest] if texts else rest


def _joined(message: Any) -> Any:
    """A message with text parts made one text, where one is wanted; all else is checked later."""
    if not isinstance(message, dict):
        return message
    role = "system" if message.get("role") == "developer" else message.get("role")
    if role == "system" and (wrong := message.keys() & {"tools", "response_format"}):
        raise InputError(f"{min(wrong)} belongs beside messages, not into one of them.")
    content = message.get("content")
    if isinstance(content, list) and role not in ("user", "tool"):
        texts = [part["text"] for part in content if isinstance(part, dict) and _is_text(part)]
        if len(texts) < len(content):
            raise InputError(f"a {message.get('role')} message's content must be text.")
        content = "\n\n".join(texts)
    return {**message, "role": role, "content": content}


def _is_text(part: dict[str, Any]) -> bool:
    return part.get("type") == "text" and isinstance(part.get("text"), str)


def _stop(given: dict[str, Any], options: dict[str, Any]) -> None:
    stop = given.pop("stop", [])
    stops = [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list) or not all(isinstance(text, str) for text in stops):
        raise InputError("stop must be a string or a list of strings.")
    ids = given.pop("stop_token_ids", [])
    if not isinstance(ids, list) or not all(type(token) is int for token in ids):
        raise InputError("stop_token_ids must be a list of token ids.")
    options |= {"stop": stops, "stop_ids": ids}


def _logprobs(given: dict[str, Any], options: dict[str, Any]) -> None:
    wanted, top = _flag(given, "logprobs"), given.pop("top_logprobs", 0)
    if type(top) is not int:
        raise InputError(f"top_logprobs is {top!r:.100}; a whole number is wanted.")
    if top and not wanted:
        raise InputError("top_logprobs needs logprobs to be true.")
    if wanted:
        options["logprobs"] = top


def _logit_bias(given: dict[str, Any], options: dict[str, Any]) -> None:
    bias = given.pop("logit_bias", {})
    if not isinstance(bias, dict) or not all(key.isdecimal() and len(key) < 10 for key in bias):
        raise InputError("logit_bias must map token ids to numbers.")
    options["logit_bias"] = {int(key): value for key, value in bias.items()}


def _thinking(given: dict[str, Any], options: dict[str, Any]) -> None:
    """DeepSeek's switch; an effort switches thinking on, and "none" off."""
    switch, effort = given.pop("thinking", None), given.pop("reasoning_effort", None)
    if switch not in (None, {"type": "enabled"}, {"type": "disabled"}):
        raise InputError('thinking must be {"type": "enabled"} or {"type": "disabled"}.')
    if effort is not None and not isinstance(effort, str):
        raise InputError(f"reasoning_effort is {effort!r:.100}; a string is wanted.")
    effort = None if effort == "none" else effort
    if effort is not None and switch == {"type": "disabled"}:
        raise InputError("reasoning_effort says how hard to think, but thinking is disabled.")
    options["thinking"] = switch == {"type": "enabled"} or effort is not None
    if options["thinking"]:
        effort = effort or "high"
        options["effort"] = _EFFORTS[options["profile"]].get(effort, effort)


def _tools(given: dict[str, Any], options: dict[str, Any]) -> None:
    """The question checks what is in them."""
    tools, choice = given.pop("tools", []), given.pop("tool_choice", "auto")
    if not isinstance(tools, list):
        raise InputError("tools must be a list of functions.")
    tools = [_tool(number, tool) for number, tool in enumerate(tools)]
    options |= {"tools": tools, "tool_choice": choice}
    options["response_format"] = given.pop("response_format", None)


def _tool(number: int, tool: Any) -> Any:
    """A tool with everything that the model is told of one, in this order."""
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(function, dict):
        return tool
    if rest := function.keys() - _FUNCTION_FIELDS:
        raise InputError(f"tools[{number}].function.{min(rest):.100} is no field; leave it out.")
    filled: dict[str, Any] = {"name": None, "description": "", "parameters": {}}
    filled |= {key: value for key, value in function.items() if value is not None}
    return {**tool, "function": filled}


def _tenant(given: dict[str, Any], options: dict[str, Any]) -> None:
    user = given.pop("user", "")
    if not isinstance(user, str) or len(user) > 512:
        raise InputError("user must be a string of at most 512 characters.")
    options["tenant"] = user


_READERS: tuple[Callable[[dict[str, Any], dict[str, Any]], None], ...] = (
    _stop,
    _logprobs,
    _logit_bias,
    _thinking,
    _tools,
    _tenant,
)
