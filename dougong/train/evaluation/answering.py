"""Answers to many prompts at once: requests join and leave one batch, each with its own state.

Nothing in a model depends on what else is in the batch, so an answer is the same as if it had been
asked for alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from dougong.model.sampling import SamplingParams, sample
from dougong.train.evaluation.reading import STEP_TOKENS, Readable, Report

PARALLEL = 48  # requests in the batch
GREEDY = SamplingParams(temperature=0)


@dataclass(kw_only=True)
class Question:
    """Ids to read behind `state` (None: an empty one), and the most tokens to answer with."""

    ids: list[int]
    max_tokens: int
    state: Any = None
    params: SamplingParams = GREEDY


@dataclass(frozen=True)
class Reply:
    """The written ids, without the stop token; `ended`: whether one came."""

    ids: list[int]
    ended: bool


@dataclass
class _Writing:
    """A question in the batch: what is still to be read, and what has been written."""

    question: Question
    state: Any
    pending: list[int]
    position: int  # of the next token in its sequence
    written: list[int] = field(default_factory=list)


@torch.inference_mode()
def answer_all(
    model: Readable,
    questions: Sequence[Question],
    *,
    stop_id: int,
    num_ids: int,
    report: Report | None = None,
) -> list[Reply]:
    """Answers in the order of the questions.

    Args:    stop_id: ends an answer. num_ids: ids from here on are never written (the embedding
             may have more rows than the tokenizer has tokens). report: told of finished answers.
    """
    waiting = deque(enumerate(questions))
    active: dict[int, _Writing] = {}
    replies: dict[int, Reply] = {}
    while waiting or active:
        while waiting and len(active) < PARALLEL:
            i, question = waiting.popleft()
            state = model.new_state() if question.state is None else question.state
            active[i] = _Writing(question, state, list(question.ids), len(question.ids))
        for i, token in _step(model, active, num_ids).items():
            one = active[i]
            if token != stop_id:
                one.written.append(token)
                one.pending.append(token)
                one.position += 1
            if token == stop_id or len(one.written) == one.question.max_tokens:
                replies[i] = Reply(one.written, token == stop_id)
                del active[i]
                if report is not None:
                    report(len(replies), len(questions))
    return [replies[i] for i in range(len(questions))]


def _step(model: Readable, active: dict[int, _Writing], num_ids: int) -> dict[int, int]:
    """One forward pass: every request reads a share; those that have read all draw a token."""
    share = STEP_TOKENS // len(active)
    fed = [one.pending[:share] for one in active.values()]
    for one in active.values():
        del one.pending[:share]
    lengths = [len(ids) for ids in fed]
    flat_T = torch.tensor([token for ids in fed for token in ids])
    hidden = model(flat_T, lengths, [one.state for one in active.values()])
    last = torch.tensor(lengths).cumsum(0) - 1
    through = [(row, i) for row, (i, one) in enumerate(active.items()) if not one.pending]
    if not through:
        return {}
    scores = model.logits(hidden[last[[row for row, _ in through]]])[:, :num_ids]
    best = scores.argmax(-1).tolist()
    drawn: dict[int, int] = {}
    for row, (_, i) in enumerate(through):
        one = active[i]
        greedy = one.question.params.temperature == 0
        drawn[i] = best[row] if greedy else sample(scores[row], one.question.params, one.position)
    return drawn


@torch.inference_mode()
def state_behind(model: Readable, ids: Sequence[int]) -> Any:
    """A new state that has read these ids; its `fork()`s are where answers may start."""
    state = model.new_state()
    for low in range(0, len(ids), STEP_TOKENS):
        part = torch.tensor(ids[low : low + STEP_TOKENS])
        model(part, [len(part)], [state])
    return state
