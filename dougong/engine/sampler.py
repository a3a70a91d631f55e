"""From a row of logits to one request's next token: biases, penalties, noise, log-probabilities.

Everything is a pure function of the request (its ids so far, its options) and of the logits of
its own position, so it cannot depend on what else is in the batch.

Shapes: V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from dougong.engine.request import Logprob
from dougong.errors import InputError
from dougong.model.sampling import SamplingParams, sample

MAX_LOGPROBS = 20  # alternatives a position, as in OpenAI's API
MAX_BIAS = 100.0


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to draw, beyond temperature and filters.

    `presence_penalty` is taken once from the logit of every token that the answer holds,
    `frequency_penalty` once for each time (OpenAI's definitions).  `repetition_penalty` divides the
    logits above 0, and multiplies those below, of every token that prompt or answer hold (Keskar et
    al. 2019, CTRL).  `logit_bias`: id -> added to its logit.
    Raises InputError for a value outside its range.
    """

    sampling: SamplingParams = field(default_factory=SamplingParams)
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("presence_penalty", self.presence_penalty, -2.0, 2.0),
            ("frequency_penalty", self.frequency_penalty, -2.0, 2.0),
            ("repetition_penalty", self.repetition_penalty, 0.1, 10.0),
            *(
                (f"logit_bias of id {token}", bias, -MAX_BIAS, MAX_BIAS)
                for token, bias in self.logit_bias.items()
            ),
        ):
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise InputError(f"{name} is {value!r}; a number is wanted.")
            if not low <= value <= high:
                raise InputError(f"{name} is {value}; it must be from {low:g} to {high:g}.")

    @cached_property
    def plain(self) -> bool:
        """Whether the logits are drawn from as they are."""
        penalties = (self.presence_penalty, self.frequency_penalty, self.repetition_penalty - 1.0)
        return not any(penalties) and not self.logit_bias


DEFAULT_OPTIONS = Options()


def adjust(
    logits_V: Tensor,
    options: Options,
    prompt_ids: Sequence[int],
    written: Sequence[int],
    *,
    forbidden: Sequence[int] = (),
    allowed_V: Tensor | None = None,
) -> Tensor:
    """The logits that are drawn from; a new tensor where anything changes.

    Args: forbidden: ids that cannot come now (stop ids before min_tokens).  allowed_V: bool mask of
    the ids that a grammar lets through.
    Raises: InputError if nothing is left to draw.
    """
    if options.plain and not forbidden and allowed_V is None:
        return logits_V
    logits_V = logits_V.float().clone()
    if options.repetition_penalty != 1.0:
        seen = torch.tensor(sorted({*prompt_ids, *written}), dtype=torch.int64)
        value = logits_V[seen]
        factor = options.repetition_penalty
        logits_V[seen] = torch.where(value > 0, value / factor, value * factor)
    if written and (options.presence_penalty or options.frequency_penalty):
        ids, counts = torch.tensor(written, dtype=torch.int64).unique(return_counts=True)
        logits_V[ids] -= options.presence_penalty + options.frequency_penalty * counts
    for token, bias in options.logit_bias.items():
        logits_V[token] += bias
    if forbidden:
        logits_V[torch.tensor(sorted(forbidden), dtype=torch.int64)] = -torch.inf
    if allowed_V is not None:
        logits_V[~allowed_V] = -torch.inf
    if bool((logits_V == -torch.inf).all()):
        raise InputError(
            "no token is left to draw: biases, stops and the grammar exclude them all."
        )
    return logits_V


def draw(logits_V: Tensor, sampling: SamplingParams, position: int) -> int:
    """The token at `position`; ids at minus infinity cannot come. InputError for NaN."""
    possible = torch.isfinite(logits_V)
    if bool(possible.all()):
        return sample(logits_V, sampling, position)
    if bool(torch.isnan(logits_V).any()) or bool((logits_V == torch.inf).any()):
        return sample(logits_V, sampling, position)  # says what is wrong
    # noise is keyed by id: far below the rest is as good as absent, and keeps every id's place
    floor = logits_V[possible].min() - 1e4 * max(sampling.temperature, 1.0)
    return sample(torch.where(possible, logits_V, floor), sampling, position)


def logprob(logits_V: Tensor, token: int, alternatives: int) -> Logprob:
    """Log-probability of `token` in the model's own distribution, and the likeliest tokens."""
    logprobs_V = torch.log_softmax(logits_V.float(), dim=-1)
    if alternatives == 0:
        return Logprob(token, float(logprobs_V[token]))
    order_V = torch.argsort(logprobs_V, descending=True, stable=True)  # of equals the lowest id
    top = tuple((int(i), float(logprobs_V[i])) for i in order_V[:alternatives])
    return Logprob(token, float(logprobs_V[token]), top)
