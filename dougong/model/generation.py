"""Runs one request: prefill in chunks, then token by token.

Shapes: S tokens of one sequence, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, repeat

import torch
from torch import Tensor

from dougong.errors import InputError
from dougong.model.sampling import SamplingParams, sample
from dougong.model.state import RequestState
from dougong.model.transformer import Transformer
from dougong.model.v3 import V3State, V3Transformer

LanguageModel = Transformer | V3Transformer

PREFILL_TOKENS = 1024  # bounds the memory of a long prompt; the answer does not depend on it
# A piece of this length uses nearly every expert once: under a budget, read them less often.
BUDGET_PREFILL_TOKENS = 4096

Report = Callable[[int, int], None]  # told how many tokens are done, and of how many


def pieces(num_tokens: int, chunks: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Cuts [0, num_tokens) into (low, high) pieces of the given sizes, the last one repeating."""
    low = 0
    for size in chain(chunks, repeat(chunks[-1])):
        if low >= num_tokens:
            return
        yield low, min(low + size, num_tokens)
        low += size


def prefill_tokens(model: LanguageModel) -> int:
    """Tokens of a prompt that `model` takes at a time."""
    is_budgeted = isinstance(model, Transformer) and model.expert_cache is not None
    return BUDGET_PREFILL_TOKENS if is_budgeted else PREFILL_TOKENS


@dataclass(frozen=True)
class Limits:
    """When an answer ends, and which ids it may hold.

    `num_ids`: ids from here on are never drawn; an embedding can have more rows than the tokenizer
    has tokens, and such an id has no text. None allows the whole vocabulary.
    """

    max_tokens: int
    stop_ids: frozenset[int] = frozenset()
    num_ids: int | None = None


class Request:
    """One sequence on one model: the tokens that its state holds, and the next token's logits."""

    def __init__(self, model: LanguageModel) -> None:
        self.model = model
        self.state: RequestState | V3State = model.new_state()
        self.held_ids: list[int] = []
        self.reused_tokens = 0  # of the last prompt: how many were held already

    def keep_prefix(self, ids: Sequence[int]) -> None:
        """Makes what is held a proper prefix of `ids`, as long as possible.

        A conversation's next prompt mostly begins with what was just computed. What cannot be
        rolled back is computed again.
        """
        shared = 0
        limit = min(len(self.held_ids), len(ids) - 1)  # one token is left to give logits
        while shared < limit and self.held_ids[shared] == ids[shared]:
            shared += 1
        try:
            self.state.rollback(len(self.held_ids) - shared)
        except InputError:
            self.state, shared = self.model.new_state(), 0
        self.held_ids = list(ids[:shared])

    @torch.inference_mode()
    def feed(self, ids: Sequence[int]) -> Tensor:
        """Takes `ids` into the state; returns the logits [V] of the token that follows the last."""
        device = next(self.model.parameters()).device
        ids_T = torch.tensor(ids, dtype=torch.int64, device=device)
        hidden = self.model(ids_T, [len(ids)], [self.state])  # [T, S, D], or V3's [T, D]
        self.held_ids.extend(ids)
        logits_V: Tensor = self.model.logits(hidden[-1:])[0]
        return logits_V

    def prefill(self, ids: Sequence[int], report: Report | None = None) -> Tensor:
        """Brings the state to the end of `ids`, which may be long; returns the next logits [V].

        Raises InputError for an empty prompt, ids outside the vocabulary, or too long a context.
        """
        if not ids:
            raise InputError("the prompt has no tokens; give at least one.")
        limit = self.model.config.max_position_embeddings
        if len(ids) > limit:
            raise InputError(
                f"the prompt has {len(ids)} tokens and this model takes {limit} "
                "(max_position_embeddings); shorten it."
            )
        self.keep_prefix(ids)
        done = self.reused_tokens = len(self.held_ids)
        for low, high in pieces(len(ids) - done, [prefill_tokens(self.model)]):
            logits_V = self.feed(ids[done + low : done + high])
            if report is not None:
                report(done + high, len(ids))
        return logits_V

    def decode(self, logits_V: Tensor, params: SamplingParams, limits: Limits) -> Iterator[int]:
        """Draws tokens, the first from `logits_V`, until a stop token or the largest number.

        The stop token is yielded too, so that the caller knows why the sequence ended.
        """
        for remaining in range(limits.max_tokens, 0, -1):
            token = sample(logits_V[: limits.num_ids], params, len(self.held_ids))
            yield token
            if token in limits.stop_ids or remaining == 1:
                return
            logits_V = self.feed([token])


@torch.inference_mode()
def all_logits(
    model: LanguageModel,
    ids_S: Tensor,
    chunks: Sequence[int] | None = None,
    *,
    mtp: bool = False,
    report: Report | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Logits of every position of one sequence: ([S, V], [S - 1, V] of MTP block 0 or None).

    Args:   ids_S: int64; chunks: sizes of the pieces to cut it into, the last one repeating; None
            takes the sequence at once.  report: told after each piece how far it is.
    Raises: InputError if `mtp` is asked of a model without MTP blocks.
    """
    if mtp and not (isinstance(model, Transformer) and len(model.mtp)):
        raise InputError("this checkpoint has no MTP blocks; leave --mtp out.")
    state = model.new_state()
    num_tokens = len(ids_S)
    main_parts, mtp_parts = [], []
    for low, high in pieces(num_tokens, chunks or [num_tokens]):
        streams_TSD = model(ids_S[low:high], [high - low], [state])
        main_parts.append(model.logits(streams_TSD))
        # Position i pairs with the id at i + 1, which the last position does not have.
        next_ids = ids_S[low + 1 : high + 1]
        if isinstance(model, Transformer) and mtp and len(next_ids):
            assert isinstance(state, RequestState)
            count = len(next_ids)
            drafted_TSD = model.mtp_streams(streams_TSD[:count], next_ids, [count], [state])
            mtp_parts.append(model.mtp_logits(drafted_TSD))
        if report is not None:
            report(high, num_tokens)
    logits_SV = torch.cat(main_parts)
    if not mtp:
        return logits_SV, None
    return logits_SV, torch.cat(mtp_parts) if mtp_parts else logits_SV[:0]
