"""What the model answered: reasoning, content and tool calls told apart, whole or as it streams.

The parsing is deepseek-recipe's, DeepSeek's own, which is lenient: it never fails, and drops what
it cannot place. Here every such loss, and every tool call that cannot be used, is reported in
`Completion.errors` by the official encoder's stricter rules. Newlines at the edges of reasoning,
content and calls are not part of them.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, cast

import deepseek_recipe as recipe

from dougong.chat.special import DSML, END_THINK, EOS, LEADING, TRAILING
from dougong.chat.turns import ToolCall
from dougong.errors import InputError

FinishReason = Literal["stop", "length", "tool_calls"]

_BLOCK_START: Final = f"<{DSML}"
_BLOCK_END: Final = f"</{DSML}tool_calls>"
_REASONS: Final = {
    "stop": recipe.InferenceFinishReason.Stop,
    "length": recipe.InferenceFinishReason.Length,
}


@dataclass(frozen=True)
class ReasoningDelta:
    """More of the reasoning."""

    text: str


@dataclass(frozen=True)
class ContentDelta:
    """More of the answer."""

    text: str


@dataclass(frozen=True)
class ToolCallStart:
    """A tool call begins; `index` counts the calls of one answer from 0."""

    index: int
    id: str
    name: str


@dataclass(frozen=True)
class ToolCallDelta:
    """More of a tool call's arguments, a JSON text."""

    index: int
    arguments: str


@dataclass(frozen=True)
class ToolCallEnd:
    """A tool call is over; its arguments may still be unusable (see `Completion.errors`)."""

    index: int
    call: ToolCall


Event = ReasoningDelta | ContentDelta | ToolCallStart | ToolCallDelta | ToolCallEnd


@dataclass(frozen=True, kw_only=True)
class Completion:
    """One whole answer. `errors` says in sentences what is wrong with it; mostly it is empty."""

    reasoning: str
    content: str
    tool_calls: tuple[ToolCall, ...]
    finish_reason: FinishReason
    errors: tuple[str, ...] = ()

    def message(self) -> dict[str, Any]:
        """The answer as a message for `render`: reasoning must come back to V4 with its calls."""
        message: dict[str, Any] = {"role": "assistant", "content": self.content}
        if self.reasoning:
            message["reasoning_content"] = self.reasoning
        if self.tool_calls:
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for call in self.tool_calls
            ]
        return message


def parse(
    text: str,
    *,
    thinking: bool,
    tools: bool = True,
    finish_reason: Literal["stop", "length"] = "stop",
) -> Completion:
    """The parts of an answer's text; an end-of-sentence token at its end is left out.

    Args:    thinking: whether the prompt ended with <think>. tools: whether tool calls are parsed;
             else their markup is content. finish_reason: why generation ended.
    """
    parser = CompletionParser(thinking=thinking, tools=tools)
    parser.push(text.removesuffix(EOS))
    parser.finish(finish_reason)
    return parser.completion


class CompletionParser:
    """Parses an answer while it is written; the chunks it comes in change nothing but the deltas.

    Push the text of every token but the end of sentence, then finish; `completion` is whole then.
    """

    def __init__(self, *, thinking: bool, tools: bool = True) -> None:
        """Takes the arguments of `parse`."""
        start = recipe.ThinkingInitialStage.ReasoningStart
        options = recipe.ParsingOptions(
            parse_tool_calls=tools, thinking_initial_stage=start if thinking else None
        )
        request = recipe.ConversationRequest(
            recipe.Conversation([], thinking_mode=thinking), recipe.ModelVersion.DeepseekV4Pro
        )
        generator = recipe.ChatCompletionRequest.chunk_generator(request, "", "")
        self._stream = recipe.StreamProcessor(generator, options)
        self._thinking = thinking
        self._tools = tools
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._content: list[str] = []
        self._calls: list[ToolCall] = []
        self._arguments: list[str] = []
        self._completion: Completion | None = None
        self._stream.push(recipe.InferenceChunk.ready())

    @property
    def completion(self) -> Completion:
        """The whole answer.

        Raises:  InputError before `finish`.
        """
        if self._completion is None:
            raise InputError("The answer is not finished: call finish first.")
        return self._completion

    def push(self, text: str) -> list[Event]:
        """What more text adds; text that may yet become markup is held back.

        Raises:  InputError after `finish`.
        """
        if self._completion is not None:
            raise InputError("The answer is finished: it takes no more text.")
        self._text.append(text)
        return self._events(self._stream.push(recipe.InferenceChunk.text(text)))

    def finish(self, finish_reason: Literal["stop", "length"] = "stop") -> list[Event]:
        """What was held back, and the end of the last tool call.

        Raises:  InputError if the answer is already finished.
        """
        if self._completion is not None:
            raise InputError("The answer is already finished.")
        chunks = self._stream.push(recipe.InferenceChunk.finish(_REASONS[finish_reason]))
        events = self._events([*chunks, *self._stream.finish()])
        events.extend(self._end_call())
        reason: FinishReason = finish_reason
        if self._calls and finish_reason == "stop":
            reason = "tool_calls"
        answer = Completion(
            reasoning="".join(self._reasoning),
            content="".join(self._content),
            tool_calls=tuple(self._calls),
            finish_reason=reason,
        )
        errors = _errors_of("".join(self._text), answer, self._thinking, self._tools)
        self._completion = replace(answer, errors=tuple(errors))
        return events

    def _events(self, chunks: list[Any]) -> list[Event]:
        events: list[Event] = []
        for chunk in chunks:
            for choice in json.loads(cast(str, chunk.to_json()))["choices"]:
                events.extend(self._delta(choice["delta"]))
        return events

    def _delta(self, delta: dict[str, Any]) -> list[Event]:
        """Events of one chunk in the Chat Completions form, in which the recipe reports."""
        events: list[Event] = []
        if reasoning := delta.get("reasoning_content"):
            self._reasoning.append(reasoning)
            events.append(ReasoningDelta(reasoning))
        if content := delta.get("content"):
            self._content.append(content)
            events.append(ContentDelta(content))
        for call in delta.get("tool_calls") or []:
            index, function = call["index"], call["function"]
            if "name" in function:
                events.extend(self._end_call())
                self._calls.append(ToolCall(name=function["name"], arguments="", id=call["id"]))
                events.append(ToolCallStart(index, call["id"], function["name"]))
            if arguments := function.get("arguments"):
                self._arguments.append(arguments)
                events.append(ToolCallDelta(index, arguments))
        return events

    def _end_call(self) -> list[Event]:
        """Closes the latest call: the next one begins, or the answer is over."""
        if not self._calls:
            return []
        self._calls[-1] = replace(self._calls[-1], arguments="".join(self._arguments))
        self._arguments.clear()
        return [ToolCallEnd(len(self._calls) - 1, self._calls[-1])]


def _errors_of(text: str, answer: Completion, thinking: bool, tools: bool) -> Iterator[str]:
    """What the parsing of `text` lost, and which of its calls cannot be used."""
    before, opened, block = text.partition(_BLOCK_START) if tools else (text, "", "")
    ends = before.count(END_THINK)
    if thinking and not ends:
        yield f"The reasoning did not end with {END_THINK}."
    if ends > thinking:
        yield f"The content held {END_THINK}, which is left out."
    for string in LEADING + TRAILING:
        if string in answer.content:
            yield f"The content holds the special token {string}."
    if opened:
        _, closed, after = block.rpartition(_BLOCK_END)
        if not closed:
            yield "The tool-call block did not end; what followed its last call is lost."
        elif after.strip():
            yield f"Text after the tool-call block is lost: {after.strip()[:60]!r}."
        elif not answer.tool_calls:
            yield "The tool-call block held no call."
    for index, call in enumerate(answer.tool_calls):
        if problem := _problem_of(call):
            yield f"Tool call {index} ({call.name!r}) {problem}."


def _problem_of(call: ToolCall) -> str | None:
    if not call.name:
        return "has no name"
    try:
        if isinstance(json.loads(call.arguments, object_pairs_hook=_unique), dict):
            return None
    except (ValueError, RecursionError) as problem:
        return f"has arguments that are not a JSON object: {problem}"
    return "has arguments that are not a JSON object"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is given twice")
    return found
