"""How well a model predicts given tokens: the loss of each one, for short windows and long texts.

Shapes: N tokens of one sequence, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

STEP_TOKENS = 2048  # read in one forward pass; bounds the logits [tokens, V] held at once

Report = Callable[[int, int], None]  # told how many units are done, and of how many


class Readable(Protocol):
    """What the evaluation needs of a model: Transformer, V3Transformer, or a stand-in in tests."""

    def __call__(self, ids_T: Tensor, lengths: Sequence[int], states: Any = None) -> Tensor:
        """Hidden states of flat tokens; `states` are continued, None starts afresh."""

    def logits(self, hidden: Tensor) -> Tensor:
        """Next-token scores [T, V]."""

    def new_state(self) -> Any:
        """An empty memory for one request."""


@torch.inference_mode()
def losses_of_windows(model: Readable, windows: Sequence[Sequence[int]]) -> list[Tensor]:
    """For each window the loss in nats of every token but the first: float64 [N - 1].

    A window is read from position 0 and knows nothing of its neighbours. Windows that fit together
    into STEP_TOKENS are read side by side.
    """
    found: list[Tensor] = []
    group: list[Sequence[int]] = []
    for i, window in enumerate(windows):
        group.append(window)
        following = len(windows[i + 1]) if i + 1 < len(windows) else STEP_TOKENS
        if sum(map(len, group)) + following > STEP_TOKENS:
            lengths = [len(one) for one in group]
            ids_T = torch.tensor([token for one in group for token in one])
            logits = model.logits(model(ids_T, lengths)).split(lengths)
            parts = zip(logits, ids_T.split(lengths), strict=True)
            found += [_losses(scores[:-1], ids[1:]) for scores, ids in parts]
            group = []
    return found


@torch.inference_mode()
def losses_of_stream(model: Readable, ids: Sequence[int], report: Report | None = None) -> Tensor:
    """The loss in nats of every token of one long sequence but the first: float64 [N - 1]."""
    state, ids_N, found = model.new_state(), torch.tensor(ids), []
    for low in range(0, len(ids), STEP_TOKENS):
        part = ids_N[low : low + STEP_TOKENS]
        targets = ids_N[low + 1 : low + STEP_TOKENS + 1]
        scores = model.logits(model(part, [len(part)], [state]))
        found.append(_losses(scores[: len(targets)], targets))
        if report is not None:
            report(min(low + STEP_TOKENS, len(ids)), len(ids))
    return torch.cat(found)


def _losses(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    return F.cross_entropy(logits_NV.float(), targets_N, reduction="none").double()
