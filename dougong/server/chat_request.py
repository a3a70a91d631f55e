"""A Chat Completions request, read strictly: every field works or is refused by name.

Beside OpenAI's fields: DeepSeek's `thinking`, and what vLLM and others call top_k, min_p,
repetition_penalty, min_tokens, stop_token_ids and priority. `user` is the tenant: what is cached
for one user no other can find.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dougong.api_question import Question
from dougong.chat.effort import Profile
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


def _messages(messages: Any) -> Any:
    """Text parts of messages that take one text become one; the encoder checks all else."""
    if not isinstance(messages, list):
        raise InputError("messages must be a list of messages, each an object with a role.")
    return [_joined(message) for message in messages]


def _joined(message: Any) -> Any:
    content = message.get("content") if isinstance(message, dict) else None
    if not isinstance(content, list) or message.get("role") in ("user", "tool"):
        return message
    texts = [part["text"] for part in content if isinstance(part, dict) and _is_text(part)]
    if len(texts) < len(content):
        raise InputError(f"a {message.get('role')} message's content must be text.")
    return {**message, "content": "\n\n".join(texts)}


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
    options |= {"thinking": switch == {"type": "enabled"} or effort is not None, "effort": effort}


def _tools(given: dict[str, Any], options: dict[str, Any]) -> None:
    """The question checks what is in them."""
    tools, choice = given.pop("tools", []), given.pop("tool_choice", "auto")
    if not isinstance(tools, list):
        raise InputError("tools must be a list of functions.")
    options |= {"tools": tools, "tool_choice": choice}
    options["response_format"] = given.pop("response_format", None)


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
