"""One forward pass's tokens: requests of unequal length laid end to end, no padding anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dougong.config import ModelConfig
from dougong.errors import InputError
from dougong.kernels.rotary import rotations


@dataclass
class Segment:
    """One request's share: flat rows low .. high - 1, at positions start, start + 1, ..."""

    low: int
    high: int
    start: int

    @property
    def rows(self) -> slice:
        """Its rows of every flat tensor."""
        return slice(self.low, self.high)


@dataclass
class Batch:
    """Token ids [T] of several segments; rotations are computed once a frequency table."""

    ids_T: Tensor
    segments: list[Segment]
    lengths: list[int]
    positions_T: Tensor
    _rotations: dict[int, Tensor] = field(default_factory=dict)

    @classmethod
    def flatten(cls, ids_T: Tensor, lengths: Sequence[int], starts: Sequence[int]) -> Batch:
        """Cuts `ids_T` into segments of `lengths` that continue at `starts`.

        Raises InputError if the lengths do not add up to the number of ids.
        """
        if sum(lengths) != ids_T.shape[0] or any(n < 1 for n in lengths):
            raise InputError(
                f"lengths: {list(lengths)} must be positive and add up to the {ids_T.shape[0]} "
                "token ids given"
            )
        if len(starts) != len(lengths):
            raise InputError(f"states: {len(starts)} given for {len(lengths)} requests")
        segments, low = [], 0
        for length, start in zip(lengths, starts, strict=True):
            segments.append(Segment(low, low + length, start))
            low += length
        spans = [torch.arange(s.start, s.start + s.high - s.low) for s in segments]
        positions = torch.cat(spans) if spans else torch.empty(0, dtype=torch.int64)
        return cls(ids_T, segments, list(lengths), positions.to(ids_T.device))

    def rotations(self, freqs_P: Tensor) -> Tensor:
        """RoPE rotations [T, P] of all tokens for one frequency table."""
        key = freqs_P.data_ptr()
        if key not in self._rotations:
            self._rotations[key] = rotations(freqs_P, self.positions_T)
        return self._rotations[key]


def check_tokens(
    config: ModelConfig, ids_T: Tensor, lengths: Sequence[int], starts: Sequence[int]
) -> None:
    """Refuses ids outside the vocabulary and positions the model was not made for (InputError)."""
    if ids_T.dim() != 1 or ids_T.dtype != torch.int64:
        raise InputError(
            f"token ids: need int64 of one dimension, got {ids_T.dtype} {list(ids_T.shape)}"
        )
    if ids_T.numel() and not 0 <= int(ids_T.min()) <= int(ids_T.max()) < config.vocab_size:
        raise InputError(
            f"token ids: {int(ids_T.min())} to {int(ids_T.max())} do not fit a vocabulary of "
            f"{config.vocab_size}; was the text tokenized for another model?"
        )
    limit = config.max_position_embeddings
    for length, start in zip(lengths, starts, strict=False):
        if start + length > limit:
            raise InputError(
                f"context: {start + length} tokens exceed max_position_embeddings = {limit}; "
                "shorten the prompt"
            )
