"""Dougong from Python: `dougong.load(...)` gives a `Model` that computes logits and writes text.

model = dougong.load("nano")
for piece in model.stream("Tell me a story.", seed=7):
    print(piece.text, end="")
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from dougong.chat import Tokenizer, encode_conversation, load_tokenizer, special
from dougong.chat.effort import Profile
from dougong.checkpoint import parameters
from dougong.checkpoint.locate import find_checkpoint
from dougong.config import ModelConfig, V3Config, load_config
from dougong.errors import InputError
from dougong.machine import require_memory
from dougong.model.generation import LanguageModel, Limits, Report, Request, all_logits
from dougong.model.loading import load_model
from dougong.model.sampling import SamplingParams
from dougong.model.v3_loading import load_v3_model

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}

Prompt = str | Sequence[Mapping[str, Any]]


def load(
    name: str | Path,
    *,
    backend: str = "reference",
    dtype: str = "float32",
    rounding: str = "none",
    device: str = "cpu",
    fallback: bool = True,
) -> Model:
    """Loads a model: a shipped name, a folder, or org/name in the local Hugging Face cache.

    Args:
        dtype: "float32", "float64" or "bfloat16", the number type of the arithmetic.
        fallback: whether operators that `backend` lacks may run on the reference.
        rounding: "release" rounds activations and caches at run time as the release does.
    Raises: CheckpointError, ConfigError or BackendError with one sentence.
    """
    if dtype not in DTYPES:
        raise InputError(f"dtype is {dtype!r}; choose one of {', '.join(DTYPES)}.")
    folder, number = find_checkpoint(name), DTYPES[dtype]
    config = load_config(folder)
    if device == "cpu":
        num_bytes = sum(parameter.count for parameter in parameters(config)) * number.itemsize
        require_memory(num_bytes, f"{name} in {dtype}", "try bfloat16 or a smaller model")
    if isinstance(config, V3Config):
        if (backend, rounding) != ("reference", "none"):
            raise InputError(
                f"{name} is a V3 model, which is here to compare V4 with: it runs on the reference "
                "backend without rounding; leave --backend and --rounding out."
            )
        return Model(load_v3_model(folder, dtype=number, device=device), folder)
    model = load_model(
        folder,
        dtype=number,
        backend=backend,
        rounding=rounding,
        device=device,
        fallback=fallback,
    )
    return Model(model, folder)


@dataclass(frozen=True)
class Piece:
    """Some text of an answer, as soon as its characters are complete; may be empty."""

    kind: Literal["reasoning", "content"]
    text: str


@dataclass(kw_only=True)
class Answer:
    """A finished answer. `finish_reason` is "stop" (end of sentence) or "length" (max_tokens)."""

    text: str = ""
    reasoning: str = ""
    finish_reason: Literal["stop", "length"] = "length"
    ids: list[int] = field(default_factory=list)
    prompt_tokens: int = 0
    reused_tokens: int = 0
    prefill_s: float = 0.0
    decode_s: float = 0.0

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
        """Trained values in memory, MTP blocks included."""
        return sum(tensor.numel() for tensor in self.transformer.parameters())

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The checkpoint's own tokenizer, read when it is first needed."""
        return load_tokenizer(self.folder)

    def logits(self, ids: Sequence[int] | Tensor, *, chunks: Sequence[int] | None = None) -> Tensor:
        """Next-token scores of every position [S, V], float32 (float64 if loaded so).

        Args: ids: token ids of one sequence [S]; chunks: sizes of the pieces it is computed in.
        """
        return self.all_logits(torch.as_tensor(ids, dtype=torch.int64), chunks)[0]

    def all_logits(
        self,
        ids_S: Tensor,
        chunks: Sequence[int] | None = None,
        *,
        mtp: bool = False,
        report: Report | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """`generation.all_logits` on this model: ([S, V], [S - 1, V] or None)."""
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
        raw: bool = False,
        report: Report | None = None,
    ) -> Stream:
        """Answers `prompt` piece by piece.

        Args:
            prompt: a user message, or a conversation as a list of {"role", "content", ...}.
            thinking: lets the model reason first; `effort`: its reasoning effort, of those that
                `profile`, the generation of the checkpoint, knows.
            raw: continues the string `prompt` as it is, without turning it into a conversation.
            report: told during the prefill how many tokens are done, and of how many.
        Raises: InputError if an option is out of range or prompt and answer exceed the context.
        """
        params = SamplingParams(
            temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p, seed=seed
        )
        ids = self.encode(prompt, thinking=thinking, effort=effort, profile=profile, raw=raw)
        self._check_room(len(ids), max_tokens)
        answer = Answer(prompt_tokens=len(ids))
        tokens = self._tokens(ids, params, max_tokens, answer, report)
        return Stream(self._pieces(tokens, answer, reasoning=thinking), answer)

    def encode(
        self,
        prompt: Prompt,
        *,
        thinking: bool = False,
        effort: str | None = None,
        profile: Profile = "preview",
        raw: bool = False,
    ) -> list[int]:
        """The ids that the model is given for `prompt`; see `stream` for the arguments."""
        if raw:
            if not isinstance(prompt, str) or thinking:
                raise InputError(
                    "a raw prompt is a string that the model continues: it cannot be a "
                    "conversation, and thinking has no place in it."
                )
            text = prompt if prompt.startswith(special.BOS) else special.BOS + prompt
            return self.tokenizer.encode(text)
        if isinstance(self.config, V3Config):
            raise InputError("conversations are written in V4's form; give a V3 model raw prompts.")
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        if effort is not None and not thinking:
            raise InputError("an effort says how hard to think; switch thinking on as well.")
        return encode_conversation(
            self.tokenizer, messages, thinking=thinking, effort=effort, profile=profile
        )

    def _check_room(self, prompt_tokens: int, max_tokens: int) -> None:
        limit = self.config.max_position_embeddings
        if max_tokens < 1:
            raise InputError(f"max_tokens is {max_tokens}; it must be 1 or more.")
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
        start_s = time.perf_counter()
        logits_V = request.prefill(ids, report)
        answer.reused_tokens = request.reused_tokens
        for token in request.decode(logits_V, params, limits):
            answer.ids.append(token)
            now_s = time.perf_counter()
            if len(answer.ids) == 1:
                start_s, answer.prefill_s = now_s, now_s - start_s
            else:
                answer.decode_s = now_s - start_s
            yield token
        answer.finish_reason = "stop" if answer.ids[-1] == eos else "length"
        self._request = request

    def _pieces(self, tokens: Iterator[int], answer: Answer, reasoning: bool) -> Iterator[Piece]:
        """Text of the drawn tokens; a thinking model's `</think>` ends its reasoning."""
        decoder = self.tokenizer.stream_decoder()
        end_think = self.tokenizer.special_id(special.END_THINK) if reasoning else None

        def piece(text: str) -> Iterator[Piece]:
            if not text:
                return
            if reasoning:
                answer.reasoning += text
            else:
                answer.text += text
            yield Piece("reasoning" if reasoning else "content", text)

        for token in tokens:
            if token == self.tokenizer.eos_id:
                continue
            if reasoning and token == end_think:
                yield from piece(decoder.finish())
                reasoning, decoder = False, self.tokenizer.stream_decoder()
            else:
                yield from piece(decoder.push(token))
        yield from piece(decoder.finish())
