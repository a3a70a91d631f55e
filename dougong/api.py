"""Dougong from Python: `dougong.load(...)` gives a `Model` that computes logits and writes text.

model = dougong.load("nano")
for piece in model.stream("Tell me a story.", seed=7):
    print(piece.text, end="")
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from dougong.chat import Tokenizer, encode_conversation, load_tokenizer, special
from dougong.chat.completion import CompletionParser, ContentDelta, Event, ReasoningDelta
from dougong.chat.effort import Profile
from dougong.chat.turns import ToolCall
from dougong.checkpoint import parameters
from dougong.checkpoint.locate import find_checkpoint
from dougong.config import ModelConfig, V3Config, V4Config, load_config
from dougong.engine.request import Logprob
from dougong.errors import BackendError, InputError
from dougong.kernels.cpu.library import is_built
from dougong.machine import require_memory
from dougong.model.expert_cache import Traffic
from dougong.model.generation import LanguageModel, Limits, Report, Request, all_logits
from dougong.model.loading import STORED_BACKENDS, load_model
from dougong.model.sampling import SamplingParams
from dougong.model.v3_loading import load_v3_model

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}

Prompt = str | Sequence[Mapping[str, Any]]
FinishReason = Literal["stop", "length", "tool_calls", "cancelled", "deadline", "error"]


def load(
    name: str | Path,
    *,
    backend: str = "reference",
    dtype: str = "float32",
    rounding: str = "none",
    device: str = "cpu",
    fallback: bool = True,
    memory: int | None = None,
) -> Model:
    """Loads a model: a shipped name, a folder, or org/name in the local Hugging Face cache.

    Args:
        dtype: "float32", "float64" or "bfloat16", the number type of the arithmetic.
        fallback: whether operators that `backend` lacks may run on the reference.
        rounding: "release" rounds activations and caches at run time as the release does; "none"
            computes exactly. `generate` and `chat` on the command line use `serving_rounding`,
            `serving_backend` and `serving_dtype`.
        memory: bytes of weights to hold at most, for a checkpoint larger than memory on backend
            cpu: routed experts beyond them are read when needed. The results are the same.
    Raises: CheckpointError, ConfigError or BackendError with one sentence.
    """
    if dtype not in DTYPES:
        raise InputError(f"dtype is {dtype!r}; choose one of {', '.join(DTYPES)}.")
    folder, number = find_checkpoint(name), DTYPES[dtype]
    config = load_config(folder)
    _check_device(device)
    if memory is not None:
        require_memory(memory, "that much of its weights", "lower memory")
    elif device == "cpu" and backend not in STORED_BACKENDS:  # these map files, however large
        num_bytes = sum(parameter.count for parameter in parameters(config)) * number.itemsize
        require_memory(num_bytes, f"{name} in {dtype}", "try bfloat16 or a smaller model")
    if isinstance(config, V3Config):
        if (backend, rounding, memory) != ("reference", "none", None):
            raise InputError(
                f"{name} is a V3 model, which is here to compare V4 with: it runs on the reference "
                "backend without rounding; leave --backend, --rounding and --memory out."
            )
        return Model(load_v3_model(folder, dtype=number, device=device), folder)
    model = load_model(
        folder,
        dtype=number,
        backend=backend,
        rounding=rounding,
        device=device,
        fallback=fallback,
        memory_bytes=memory,
    )
    return Model(model, folder)


def _check_device(device: str) -> None:
    """Refuses a device that torch does not know or that this machine does not have."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise BackendError(f"device {device!r} cannot be used: {reason}; try 'cpu'.") from None


def serving_rounding(name: str | Path) -> str:
    """The rounding to talk to model `name` with: "release" if it is V4 and quantized.

    Such a checkpoint was made to run so; its exact arithmetic is what `load` does by default.
    """
    return load_config(find_checkpoint(name)).serving_rounding


def serving_backend(name: str | Path, dtype: str | None = None) -> str:
    """The backend to talk to model `name` with: "cpu" where it is built and can, else "reference".

    Backend cpu takes V4 models in float32 and bfloat16; `dtype` None leaves that open.
    """
    config = load_config(find_checkpoint(name))
    able = isinstance(config, V4Config) and dtype != "float64"
    return "cpu" if able and is_built() else "reference"


def serving_dtype(backend: str) -> str:
    """The number type to talk with: bfloat16, the release's own, on backends made for speed."""
    return "float32" if backend == "reference" else "bfloat16"


@dataclass(frozen=True)
class Piece:
    """Some text of an answer, as soon as its characters are complete; may be empty."""

    kind: Literal["reasoning", "content"]
    text: str


@dataclass(kw_only=True)
class Answer:
    """A finished answer, its parts told apart; `errors` says what is malformed in it.

    `finish_reason` is "stop" (end of sentence), "length" (max_tokens) or "tool_calls", and from an
    engine also "cancelled", "deadline" or "error"; `logprobs`: of its ids, where asked for;
    `experts`: what had to be read under a memory budget.
    """

    text: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    errors: tuple[str, ...] = ()
    finish_reason: FinishReason = "length"
    ids: list[int] = field(default_factory=list)
    prompt_tokens: int = 0
    reused_tokens: int = 0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    logprobs: list[Logprob] = field(default_factory=list)
    experts: Traffic | None = None

    @property
    def tokens_per_s(self) -> float:
        """Speed after the first token, which belongs to the prefill; 0 for a single token."""
        return (len(self.ids) - 1) / self.decode_s if self.decode_s > 0 else 0.0


class Stream(Iterator[Piece]):
    """An answer while it is written: iterate for its pieces; `answer` is whole at the end."""

    def __init__(self, pieces: Iterator[Piece], answer: Answer) -> None:
        self._pieces = pieces
        self.answer = answer

    def __next__(self) -> Piece:
        return next(self._pieces)


class Model:
    """A loaded model with its tokenizer. Not thread-safe: one answer at a time."""

    def __init__(self, transformer: LanguageModel, folder: Path) -> None:
        self.transformer = transformer
        self.folder = folder
        self._request: Request | None = None

    @property
    def config(self) -> ModelConfig:
        """The model's configuration."""
        return self.transformer.config

    @property
    def num_parameters(self) -> int:
        """Trained values, MTP blocks included."""
        return sum(parameter.count for parameter in parameters(self.config))

    @property
    def traffic(self) -> Traffic | None:
        """What had to be read under a memory budget since the model was loaded."""
        cache = getattr(self.transformer, "expert_cache", None)
        return None if cache is None else cache.traffic

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The checkpoint's own tokenizer, read when it is first needed."""
        return load_tokenizer(self.folder)

    def logits(self, ids: Sequence[int] | Tensor, *, chunks: Sequence[int] | None = None) -> Tensor:
        """Next-token scores of every position [S, V], float32 (float64 if loaded so).

        Args: ids: token ids of one sequence [S]; chunks: sizes of the pieces it is computed in.
        """
        return self.all_logits(_as_ids(ids), chunks)[0]

    def all_logits(
        self,
        ids_S: Tensor,
        chunks: Sequence[int] | None = None,
        *,
        mtp: bool = False,
        report: Report | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """`generation.all_logits` on this model: ([S, V], [S - 1, V] or None)."""
        for size in chunks or ():
            if not _is_int(size) or size < 1:
                raise InputError(f"chunks: {size!r} is no size; each is a whole number from 1.")
        return all_logits(self.transformer, ids_S, chunks, mtp=mtp, report=report)

    def generate(self, prompt: Prompt, **options: Any) -> Answer:
        """Answers `prompt`; takes the options of `stream` and returns the finished answer."""
        stream = self.stream(prompt, **options)
        for _ in stream:
            pass
        return stream.answer

    def stream(
        self,
        prompt: Prompt,
        *,
        max_tokens: int = 256,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = 0,
        min_p: float = 0.0,
        seed: int = 0,
        thinking: bool = False,
        effort: str | None = None,
        profile: Profile = "preview",
        tools: Sequence[Mapping[str, Any]] | None = None,
        raw: bool = False,
        report: Report | None = None,
    ) -> Stream:
        """Answers `prompt` piece by piece.

        Args:
            prompt: a user message, or a conversation as a list of {"role", "content", ...}.
            thinking: lets the model reason first; `effort`: its reasoning effort, of those that
                `profile`, the generation of the checkpoint, knows.
            tools: functions the model may call, in OpenAI's form; its calls are parsed.
            raw: continues the string `prompt` as it is, without turning it into a conversation.
            report: told during the prefill how many tokens are done, and of how many.
        Raises: InputError if an option is out of range or prompt and answer exceed the context.
        """
        params = SamplingParams(
            temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p, seed=seed
        )
        ids = self.encode(
            prompt, thinking=thinking, effort=effort, profile=profile, tools=tools, raw=raw
        )
        self._check_room(len(ids), max_tokens)
        answer = Answer(prompt_tokens=len(ids))
        tokens = self._tokens(ids, params, max_tokens, answer, report)
        parser = None if raw else CompletionParser(thinking=thinking, tools=bool(tools))
        return Stream(self._pieces(tokens, answer, parser), answer)

    def encode(
        self,
        prompt: Prompt,
        *,
        thinking: bool = False,
        effort: str | None = None,
        profile: Profile = "preview",
        tools: Sequence[Mapping[str, Any]] | None = None,
        raw: bool = False,
        response_format: object = None,
    ) -> list[int]:
        """The ids that the model is given for `prompt`; see `stream` for the arguments.

        `response_format`: a JSON schema that the model is told to answer by.
        """
        if not isinstance(prompt, str | Sequence) or not prompt:
            raise InputError("the prompt is empty or no text; write what the model should answer.")
        if raw:
            if not isinstance(prompt, str) or thinking or tools:
                raise InputError(
                    "a raw prompt is a string that the model continues: it cannot be a "
                    "conversation, and thinking and tools have no place in it."
                )
            text = prompt if prompt.startswith(special.BOS) else special.BOS + prompt
            return self.tokenizer.encode(text)
        if isinstance(self.config, V3Config):
            raise InputError("conversations are written in V4's form; give a V3 model raw prompts.")
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        if effort is not None and not thinking:
            raise InputError("an effort says how hard to think; switch thinking on as well.")
        return encode_conversation(
            self.tokenizer,
            messages,
            tools=tools,
            thinking=thinking,
            effort=effort,
            profile=profile,
            response_format=response_format,
        )

    def _check_room(self, prompt_tokens: int, max_tokens: int) -> None:
        limit = self.config.max_position_embeddings
        if not _is_int(max_tokens) or max_tokens < 1:
            raise InputError(f"max_tokens is {max_tokens!r}; a whole number from 1 is wanted.")
        if prompt_tokens + max_tokens > limit:
            raise InputError(
                f"{prompt_tokens} prompt tokens and max_tokens {max_tokens} exceed the model's "
                f"context of {limit} tokens (max_position_embeddings); lower one of them."
            )

    def _tokens(
        self, ids: list[int], params: SamplingParams, max_tokens: int, answer: Answer,
        report: Report | None,
    ) -> Iterator[int]:  # fmt: skip
        """Drawn tokens, with the answer's ids and times kept as they come."""
        # Taken away for the time being: after an error half a state must not be continued.
        request, self._request = self._request or Request(self.transformer), None
        eos = self.tokenizer.eos_id
        limits = Limits(max_tokens, frozenset({eos}), self.tokenizer.num_ids)
        start_s, before = time.perf_counter(), self.traffic
        logits_V = request.prefill(ids, report)
        answer.reused_tokens = request.reused_tokens
        for token in request.decode(logits_V, params, limits):
            answer.ids.append(token)
            now_s = time.perf_counter()
            if len(answer.ids) == 1:
                start_s, answer.prefill_s = now_s, now_s - start_s
            else:
                answer.decode_s = now_s - start_s
            if before is not None and (now := self.traffic) is not None:
                answer.experts = now.since(before)
            yield token
        answer.finish_reason = "stop" if answer.ids[-1] == eos else "length"
        self._request = request

    def _pieces(
        self, tokens: Iterator[int], answer: Answer, parser: CompletionParser | None
    ) -> Iterator[Piece]:
        """Text of the drawn tokens, told apart by `parser`; None leaves it as it is (raw)."""
        decoder = self.tokenizer.stream_decoder()

        def told_apart(text: str) -> Iterator[Piece]:
            if parser is None:
                answer.text += text
                yield Piece("content", text)
            else:
                yield from shown(parser.push(text))

        for token in tokens:
            if token != self.tokenizer.eos_id and (text := decoder.push(token)):
                yield from told_apart(text)
        if text := decoder.finish():
            yield from told_apart(text)
        if parser is None:
            return
        yield from shown(parser.finish("stop" if answer.finish_reason == "stop" else "length"))
        whole = parser.completion
        answer.text, answer.reasoning = whole.content, whole.reasoning
        answer.tool_calls, answer.errors = whole.tool_calls, whole.errors
        answer.finish_reason = whole.finish_reason


def shown(events: Iterable[Event]) -> Iterator[Piece]:
    """What of the parsed events is text to read; tool calls are whole in the answer."""
    for event in events:
        if isinstance(event, ReasoningDelta):
            yield Piece("reasoning", event.text)
        elif isinstance(event, ContentDelta):
            yield Piece("content", event.text)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _as_ids(ids: object) -> Tensor:
    """Token ids as int64 [S]; InputError for anything that is not a list of whole numbers."""
    if isinstance(ids, Tensor):
        if ids.dtype != torch.int64 or ids.dim() != 1 or not len(ids):
            raise InputError(
                f"ids is {ids.dtype} {list(ids.shape)}; expected int64 [S] with at least one token."
            )
        return ids
    if isinstance(ids, str) or not isinstance(ids, Sequence) or not ids:
        raise InputError("ids must be a list of token ids with at least one in it.")
    for at, token in enumerate(ids):
        if not _is_int(token) or not 0 <= token < 2**31:
            raise InputError(f"ids[{at}] is {token!r}; a token id is a whole number from 0.")
    return torch.tensor(ids, dtype=torch.int64)
