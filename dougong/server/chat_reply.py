"""Answers in the Chat Completions form: one object at the end, or chunks as they are written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dougong.api_question import Question, ended
from dougong.chat import Tokenizer, special
from dougong.chat.completion import (
    Completion,
    ContentDelta,
    Event,
    ReasoningDelta,
    ToolCallDelta,
    ToolCallStart,
    parse,
)
from dougong.engine.request import Finish, Logprob, Reply, Update

JSON = dict[str, Any]


@dataclass(frozen=True)
class Usage:
    """Tokens read and written for one request, in all its answers."""

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int

    def as_json(self) -> JSON:
        """OpenAI's fields, and DeepSeek's for the cache."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
            "prompt_cache_hit_tokens": self.cached_tokens,
            "prompt_cache_miss_tokens": self.prompt_tokens - self.cached_tokens,
            "completion_tokens_details": {"reasoning_tokens": self.reasoning_tokens},
        }


@dataclass(frozen=True)
class ChatWriter:
    """Writes the answers to one request: what they share, and the objects around them."""

    id: str
    model: str
    created: int  # seconds since 1970
    question: Question
    tokenizer: Tokenizer

    def whole(self, replies: Sequence[Reply]) -> JSON:
        """The object that answers a request which is not streamed."""
        return {
            **self._envelope("chat.completion"),
            "choices": [self._choice(index, reply) for index, reply in enumerate(replies)],
            "usage": self.usage(replies).as_json(),
        }

    def first(self, index: int) -> JSON:
        """The chunk that opens answer `index`."""
        return self._chunk(index, {"role": "assistant", "content": ""})

    def chunks(self, index: int, update: Update, events: Iterable[Event]) -> Iterator[JSON]:
        """What an update adds to answer `index`: a chunk for each part that grows."""
        logprobs = self._logprobs(update.logprobs)
        for event in events:
            if delta := _delta(event):
                yield self._chunk(index, delta, logprobs)
                logprobs = None
        if logprobs is not None and logprobs["content"]:
            yield self._chunk(index, {"content": ""}, logprobs)

    def last(self, index: int, reply: Reply) -> JSON:
        """The chunk that closes answer `index`."""
        whole = self._parsed(reply)
        return self._chunk(index, {}, reason=_reason(whole, reply.finish), errors=whole.errors)

    def usage_chunk(self, replies: Sequence[Reply]) -> JSON:
        """The chunk without answers that tells what was used."""
        envelope = self._envelope("chat.completion.chunk")
        return {**envelope, "choices": [], "usage": self.usage(replies).as_json()}

    def usage(self, replies: Sequence[Reply]) -> Usage:
        """The prompt is counted once; of its n readings the best use of the cache."""
        return Usage(
            replies[0].prompt_tokens,
            max(reply.cached_tokens for reply in replies),
            sum(len(reply.ids) for reply in replies),
            sum(self._num_reasoning(reply.ids) for reply in replies),
        )

    def _envelope(self, kind: str) -> JSON:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def _parsed(self, reply: Reply) -> Completion:
        return parse(
            reply.text,
            thinking=self.question.thinking,
            tools=bool(self.question.shown_tools),
            finish_reason=ended(reply),
        )

    def _choice(self, index: int, reply: Reply) -> JSON:
        whole = self._parsed(reply)
        message = {**whole.message(), "refusal": None}
        choice = {
            "index": index,
            "message": message,
            "finish_reason": _reason(whole, reply.finish),
            "logprobs": self._logprobs(reply.logprobs),
        }
        return choice | ({"errors": list(whole.errors)} if whole.errors else {})

    def _chunk(
        self, index: int, delta: JSON, logprobs: JSON | None = None, reason: str | None = None,
        errors: Sequence[str] = (),
    ) -> JSON:  # fmt: skip
        choice = {"index": index, "delta": delta, "finish_reason": reason, "logprobs": logprobs}
        choice |= {"errors": list(errors)} if errors else {}
        return {**self._envelope("chat.completion.chunk"), "choices": [choice]}

    def _num_reasoning(self, ids: Sequence[int]) -> int:
        """How many ids belong to the reasoning, its end included."""
        if not self.question.thinking:
            return 0
        end = self.tokenizer.special_id(special.END_THINK)
        return ids.index(end) + 1 if end in ids else len(ids)

    def _logprobs(self, entries: Sequence[Logprob]) -> JSON | None:
        """Every token drawn but the end of sentence."""
        if self.question.logprobs is None:
            return None
        eos = self.tokenizer.eos_id
        return {"content": [self._logprob(entry) for entry in entries if entry.token != eos]}

    def _logprob(self, entry: Logprob) -> JSON:
        top = [self._token(token, logprob) for token, logprob in entry.top]
        return {**self._token(entry.token, entry.logprob), "top_logprobs": top}

    def _token(self, token: int, logprob: float) -> JSON:
        if token >= self.tokenizer.num_ids:  # an embedding may have rows without a text
            return {"token": f"<{token}>", "logprob": logprob, "bytes": None}
        known = self.tokenizer.token_bytes(token)
        text = known.decode("utf-8", errors="replace")
        return {"token": text, "logprob": logprob, "bytes": list(known)}


def error_object(
    message: str, kind: str = "invalid_request_error", code: str | None = None
) -> JSON:
    """OpenAI's form of an error."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def _reason(whole: Completion, finish: Finish) -> str:
    """OpenAI's word; an answer that ran out of time was cut off."""
    return whole.finish_reason if finish is Finish.STOP else "length"


def _delta(event: Event) -> JSON | None:
    if isinstance(event, ReasoningDelta):
        return {"reasoning_content": event.text}
    if isinstance(event, ContentDelta):
        return {"content": event.text}
    if isinstance(event, ToolCallStart):
        function = {"name": event.name, "arguments": ""}
        call = {"index": event.index, "id": event.id, "type": "function", "function": function}
        return {"tool_calls": [call]}
    if isinstance(event, ToolCallDelta):
        return {"tool_calls": [{"index": event.index, "function": {"arguments": event.arguments}}]}
    return None
