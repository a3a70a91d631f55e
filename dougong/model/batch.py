"""One forward pass's tokens: requests of unequal length laid end to end, no padding anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import torch
from torch import Tensor

from dougong.config import ModelConfig
from dougong.errors import InputError
from dougong.kernels.paged import Span, Spans
from dougong.kernels.rotary import rotations
from dougong.model.state import RequestState


@dataclass
class Batch:
    """Token ids [T] of several requests; rotations are computed once for all layers."""

    ids_T: Tensor
    spans: Spans
    turned: dict[tuple[int, int], Tensor] = field(default_factory=dict)  # by table and ratio

    @classmethod
    def flatten(cls, ids_T: Tensor, lengths: Sequence[int], starts: Sequence[int]) -> Batch:
        """Cuts `ids_T` into requests of `lengths` that continue at `starts`, without memories."""
        lows = accumulate(lengths[:-1], initial=0)
        spans = [Span(low, low + n, at) for low, n, at in zip(lows, lengths, starts, strict=False)]
        return cls(ids_T, Spans(spans, ids_T.device))

    @classmethod
    def of(
        cls,
        ids_T: Tensor,
        lengths: Sequence[int],
        states: Sequence[RequestState] | None,
        block: int | None = None,
    ) -> Batch:
        """The next tokens of `states`, in the main layers or MTP `block`; None: from position 0."""
        if states is None:
            return cls.flatten(ids_T, lengths, [0] * len(lengths))
        lows = accumulate(lengths[:-1], initial=0)
        parts = zip(states, lows, lengths, strict=False)
        return cls(ids_T, Spans([s.span(low, n, block) for s, low, n in parts], ids_T.device))

    @property
    def lengths(self) -> list[int]:
        """Tokens of each request."""
        return self.spans.lengths

    def rotations(self, freqs_P: Tensor) -> Tensor:
        """RoPE rotations [T, P] of all tokens for one frequency table."""
        key = freqs_P.data_ptr(), 0
        if key not in self.turned:
            self.turned[key] = rotations(freqs_P, self.spans.positions)
        return self.turned[key]

    def entry_rotations(self, freqs_P: Tensor, ratio: int) -> Tensor:
        """Those of the entries [E, P] that these tokens complete, request by request."""
        key = freqs_P.data_ptr(), ratio
        if key not in self.turned:
            positions = torch.tensor(self.entry_positions(ratio), dtype=torch.int64)
            self.turned[key] = rotations(freqs_P, positions.to(freqs_P.device))
        return self.turned[key]

    def entry_positions(self, ratio: int) -> list[int]:
        """The first positions (trap 5) of the blocks of `ratio` that these tokens complete."""
        return [
            position
            for span in self.spans
            for position in range(span.start // ratio * ratio, span.end - ratio + 1, ratio)
        ]


def check_tokens(
    config: ModelConfig, ids_T: Tensor, lengths: Sequence[int], starts: Sequence[int]
) -> None:
    """Raises InputError for ids outside the vocabulary, lengths that do not add up to them, and
    positions the model was not made for.
    """
    if len(starts) != len(lengths):
        raise InputError(f"states: {len(starts)} given for {len(lengths)} requests")
    if ids_T.dim() != 1 or ids_T.dtype != torch.int64:
        raise InputError(
            f"token ids: need int64 of one dimension, got {ids_T.dtype} {list(ids_T.shape)}"
        )
    if ids_T.numel() and not 0 <= int(ids_T.min()) <= int(ids_T.max()) < config.vocab_size:
        raise InputError(
            f"token ids: {int(ids_T.min())} to {int(ids_T.max())} do not fit a vocabulary of "
            f"{config.vocab_size}; was the text tokenized for another model?"
        )
    if sum(lengths) != ids_T.shape[0] or any(n < 1 for n in lengths):
        raise InputError(
            f"lengths: {list(lengths)} must be positive and add up to the {ids_T.shape[0]} "
            "token ids given"
        )
    limit = config.max_position_embeddings
    for length, start in zip(lengths, starts, strict=True):
        if start + length > limit:
            raise InputError(
                f"context: {start + length} tokens exceed max_position_embeddings = {limit}; "
                "shorten the prompt"
            )
