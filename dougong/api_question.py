"""A question: what is asked in words and how it is to be answered; it becomes the engine's jobs.

`Engine.generate`, `dougong generate --batch` and `dougong serve` all ask through this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from dougong.api import Answer, Model, Prompt
from dougong.api_format import grammar_of, schema_of, told_tools
from dougong.chat.completion import CompletionParser, parse
from dougong.chat.effort import Profile
from dougong.engine.grammar import GrammarSpec
from dougong.engine.request import Finish, Grammar, Job, Reply
from dougong.engine.sampler import MAX_LOGPROBS, Options
from dougong.errors import InputError
from dougong.model.sampling import MAX_SEED, SamplingParams

MAX_ANSWERS = 128  # to one question, as in OpenAI's API
# max_tokens where a question leaves it open, without and with reasoning (DeepSeek's own API).
OPEN_TOKENS, OPEN_THINKING_TOKENS = 8_192, 65_536


@dataclass(frozen=True, kw_only=True)
class Question:
    """A prompt and everything that its answers depend on.

    Args:
        prompt: a user message, or a conversation as a list of {"role", "content", ...}.
        max_tokens: None is as many as fit, 8,192 at most (65,536 when thinking).
        n: answers to the same prompt; answer i is the one that seed + i gives alone.
        stop: strings that end the answer and are left out; `stop_ids`: ids that end it.
        logprobs: report each token's log-probability, with that many alternatives (0 to 20).
        response_format: what the answer (not the reasoning) is held to, in OpenAI's form:
            {"type": "json_schema", "json_schema": {"schema": ...}} or {"type": "json_object"}; also
            {"type": "regex", "regex": ...} and {"type": "grammar", "grammar": ...} (EBNF).
        tool_choice: "auto", "none" (the model is not shown the tools), "required", or
            {"type": "function", "function": {"name": ...}}.
        thinking, effort, profile, tools, raw: as for `Model.stream`. A tool with "strict": true is
            called with arguments that fit its parameters, as tools are that must be called.
        priority, tenant, deadline_s: as for `Job`.
    Raises: InputError if a value is out of its range.
    """

    prompt: Prompt
    max_tokens: int | None = 256
    min_tokens: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int = 0
    n: int = 1
    stop: Sequence[str] = ()
    stop_ids: Sequence[int] = ()
    logprobs: int | None = None
    thinking: bool = False
    effort: str | None = None
    profile: Profile = "preview"
    tools: Sequence[Mapping[str, Any]] | None = None
    tool_choice: str | Mapping[str, Any] = "auto"
    response_format: Mapping[str, Any] | None = None
    raw: bool = False
    priority: int = 0
    tenant: str = ""
    deadline_s: float | None = None

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("max_tokens", self.max_tokens, 1, 2**31),
            ("n", self.n, 1, MAX_ANSWERS),
            ("seed", self.seed, 0, MAX_SEED),
            ("logprobs", self.logprobs, 0, MAX_LOGPROBS),
        ):
            whole = isinstance(value, int) and not isinstance(value, bool)
            if value is not None and not (whole and low <= value <= high):
                raise InputError(
                    f"{name} is {value!r}; a whole number from {low} to {high} is wanted."
                )
        if isinstance(self.stop, str):
            raise InputError("stop is one string; give a list of strings.")

    @property
    def shown_tools(self) -> Sequence[Mapping[str, Any]]:
        """The tools that the model is told of."""
        return [] if self.tool_choice == "none" else self.tools or []

    def grammar(self) -> GrammarSpec | None:
        """What the answer is held to; None: to nothing."""
        return grammar_of(self.response_format, self.shown_tools, self.tool_choice)

    def jobs(self, model: Model, room: int, grammar: Grammar | None = None) -> list[Job]:
        """The `n` jobs that answer this question on `model`.

        Args:   room: the most tokens, prompt and answer together, that the engine can hold;
                grammar: what `grammar()` asks for, compiled.
        Raises: InputError if the question cannot be asked or does not fit.
        """
        self._check_ids(model.tokenizer.num_ids)
        ids = model.encode(
            self.prompt, thinking=self.thinking, effort=self.effort, profile=self.profile,
            tools=told_tools(self.shown_tools), raw=self.raw,
            response_format=schema_of(self.response_format),
        )  # fmt: skip
        room = min(room, model.config.max_position_embeddings) - len(ids)
        if room < (self.max_tokens or 1):
            raise InputError(
                f"{len(ids)} prompt tokens and max_tokens {self.max_tokens or 1} do not fit: the "
                f"model's context and the engine's memory leave {max(room, 0)} for the answer."
            )
        most = OPEN_THINKING_TOKENS if self.thinking else OPEN_TOKENS
        stop_ids = frozenset({model.tokenizer.eos_id, *self.stop_ids})
        return [
            Job(
                prompt_ids=ids,
                max_tokens=self.max_tokens or min(room, most),
                min_tokens=self.min_tokens,
                stop_ids=stop_ids,
                stops=tuple(self.stop),
                grammar=grammar,
                options=self._options((self.seed + i) % (MAX_SEED + 1)),
                priority=self.priority,
                tenant=self.tenant,
                deadline_s=self.deadline_s,
                logprobs=self.logprobs,
            )
            for i in range(self.n)
        ]

    def parser(self) -> CompletionParser | None:
        """What tells an answer's parts apart as it comes; None for a raw prompt's."""
        if self.raw:
            return None
        return CompletionParser(thinking=self.thinking, tools=bool(self.shown_tools))

    def answer(self, reply: Reply) -> Answer:
        """The finished answer that a job's reply holds."""
        first_s = reply.first_token_s if reply.first_token_s is not None else reply.total_s
        answer = Answer(
            text=reply.text,
            finish_reason=reply.finish.value,
            ids=reply.ids,
            prompt_tokens=reply.prompt_tokens,
            reused_tokens=reply.cached_tokens,
            prefill_s=first_s,
            decode_s=reply.total_s - first_s,
            logprobs=reply.logprobs,
        )
        if not self.raw:
            whole = parse(
                reply.text,
                thinking=self.thinking,
                tools=bool(self.shown_tools),
                finish_reason=ended(reply),
            )
            answer.text, answer.reasoning = whole.content, whole.reasoning
            answer.tool_calls, answer.errors = whole.tool_calls, whole.errors
            if reply.finish in (Finish.STOP, Finish.LENGTH):
                answer.finish_reason = whole.finish_reason
        if reply.error is not None:
            answer.errors = (reply.error, *answer.errors)
        return answer

    def _check_ids(self, num_ids: int) -> None:
        for name, ids in (("logit_bias", self.logit_bias), ("stop_token_ids", self.stop_ids)):
            wrong = next((token for token in ids if not 0 <= token < num_ids), None)
            if wrong is not None:
                raise InputError(f"{name} names id {wrong}; the tokenizer has {num_ids} ids.")

    def _options(self, seed: int) -> Options:
        return Options(
            sampling=SamplingParams(
                temperature=self.temperature, top_p=self.top_p, top_k=self.top_k,
                min_p=self.min_p, seed=seed,
            ),
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            repetition_penalty=self.repetition_penalty,
            logit_bias=self.logit_bias,
        )  # fmt: skip


def ended(reply: Reply) -> Literal["stop", "length"]:
    """How the parser is told that an answer is over: by itself, or cut off."""
    return "stop" if reply.finish is Finish.STOP else "length"
