"""Models whose scores are known beforehand, for the evaluation's own tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

CERTAIN = 1e4  # a logit that leaves nothing to the other tokens


class Memory:
    """A request's state: the ids read so far."""

    def __init__(self, ids: Sequence[int] = ()) -> None:
        self.ids = list(ids)

    def fork(self) -> Memory:
        """An independent copy."""
        return Memory(self.ids)


class StandIn:
    """A model that gives probability 1 to `follow(ids so far)`, or the same to every token."""

    def __init__(self, num_ids: int, follow: Callable[[list[int]], int] | None = None) -> None:
        self.num_ids, self.follow = num_ids, follow

    def new_state(self) -> Memory:
        """An empty memory."""
        return Memory()

    def __call__(self, ids_T: Tensor, lengths: Sequence[int], states: Any = None) -> Tensor:
        """What follows each position [T]; only the last of a request is looked at closely."""
        states = states or [Memory() for _ in lengths]
        found = torch.zeros(len(ids_T), dtype=torch.int64)
        low = 0
        for length, state in zip(lengths, states, strict=True):
            state.ids += ids_T[low : low + length].tolist()
            low += length
            if self.follow is not None:
                found[low - 1] = self.follow(state.ids)
        return found

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores [T, V]."""
        if self.follow is None:
            return torch.zeros(len(hidden), self.num_ids)
        return F.one_hot(hidden, self.num_ids).float() * CERTAIN


def scripted(num_ids: int, stop_id: int, script: Sequence[tuple[list[int], list[int]]]) -> StandIn:
    """Writes the given answer behind each given prompt, and stops at once behind any other."""
    following: dict[tuple[int, ...], int] = {}
    for prompt, answer in script:
        for i, token in enumerate([*answer, stop_id]):
            following[(*prompt, *answer[:i])] = token
    return StandIn(num_ids, lambda ids: following.get(tuple(ids), stop_id))
