"""Draws the next token from logits, reproducibly.

The noise is a pure function of (seed, position, token id): a counter-based generator, not a stream
of random numbers. So a token does not depend on what was drawn before, on how the prompt was cut,
or on what else runs beside it, and a drafted token is accepted exactly when it equals the token
that would have been drawn. Adding Gumbel noise and taking the largest draws from the softmax.
"""

# V: vocabulary, K: the tokens that are kept

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dougong.errors import InputError

# SplitMix64 (Steele, Lea, Flood, 2014: Fast splittable pseudorandom number generators): the
# increment is 2**64 / golden ratio. The constants are written as the signed int64 that torch holds.
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX_2 = 0x94D049BB133111EB - 2**64
MAX_SEED = 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How to draw: `temperature` 0 is greedy; `top_k` 0, `top_p` 1 and `min_p` 0 keep every token.

    Filters act one after another on the tempered distribution: top_k, then top_p over what is left,
    then min_p. Raises InputError for a value outside its range.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("temperature", "top_p", "top_k", "min_p", "seed"):
            value, whole = getattr(self, name), name in ("top_k", "seed")
            if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
                kind = "whole number" if whole else "number"
                raise InputError(f"{name} is {value!r}; a {kind} is wanted.")
        for name, value, allowed, what in (
            ("temperature", self.temperature, 0 <= self.temperature < float("inf"), "0 or more"),
            ("top_p", self.top_p, 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("top_k", self.top_k, self.top_k >= 0, "0 (all) or more"),
            ("min_p", self.min_p, 0 <= self.min_p <= 1, "from 0 to 1"),
            ("seed", self.seed, 0 <= self.seed <= MAX_SEED, "from 0 to 2**63 - 1"),
        ):
            if not allowed:
                raise InputError(f"{name} is {value}; it must be {what}.")

    @property
    def keeps_all(self) -> bool:
        """Whether no filter is on, so that the vocabulary need not be sorted."""
        return self.top_k == 0 and self.top_p == 1 and self.min_p == 0


def sample(logits_V: Tensor, params: SamplingParams, position: int) -> int:
    """Draws the token that stands at `position` of its sequence; of equals the lowest id wins.

    Args:   logits_V: any float dtype [V]; position: index of the drawn token, prompt included.
    Raises: InputError if a logit is NaN or infinite.
    """
    if not bool(torch.isfinite(logits_V).all()):
        raise InputError(
            f"the logits for position {position} hold NaN or infinity; the weights or the number "
            "type do not fit this model (try --dtype float32)."
        )
    if params.temperature == 0:
        return int(torch.argmax(logits_V))
    # float64: a filter's cut must not move with the order in which float32 sums are taken.
    # Below the maximum, not as they are: a tiny temperature must not overflow.
    scaled_V = (logits_V.double() - logits_V.max().double()) / params.temperature
    if params.keeps_all:
        kept_K = torch.arange(len(scaled_V), device=scaled_V.device)
    else:
        order_V = torch.argsort(scaled_V, descending=True, stable=True)  # stable: lowest id first
        kept_K = order_V[: num_kept(scaled_V[order_V], params)]
    noisy_K = scaled_V[kept_K] + gumbel(params.seed, position, kept_K)
    best = kept_K[noisy_K == noisy_K.max()]
    return int(best.min())


def sample_many(
    logits_RV: Tensor, params: Sequence[SamplingParams], positions: Sequence[int]
) -> list[int | None]:
    """`sample` of several rows at once: the same tokens, in fewer operations.

    None stands for a row that `sample` has to draw: one with filters, or with NaN or infinity.
    """
    likeliest, sums = _likeliest(logits_RV)
    # a sum that overflows only sends its row to `sample`, which looks closely
    finite = [math.isfinite(total) for total in sums]
    tokens: list[int | None] = [
        token if is_finite and one.temperature == 0 else None
        for token, is_finite, one in zip(likeliest, finite, params, strict=True)
    ]
    rows = [r for r, one in enumerate(params) if finite[r] and one.temperature and one.keeps_all]
    if rows:
        wide_RV = logits_RV[rows].double()
        heat_R = torch.tensor([params[r].temperature for r in rows], dtype=torch.float64)
        scaled_RV = (wide_RV - wide_RV.amax(1, keepdim=True)) / heat_R.to(wide_RV.device)[:, None]
        seeds = [params[r].seed for r in rows]
        ids_V = torch.arange(logits_RV.shape[1], device=wide_RV.device)
        noise_RV = gumbel(seeds, [positions[r] for r in rows], ids_V)
        for r, token in zip(rows, torch.argmax(scaled_RV + noise_RV, dim=1).tolist(), strict=True):
            tokens[r] = token
    return tokens


def _likeliest(logits_RV: Tensor) -> tuple[list[int], list[float]]:
    """The first of the largest of each row, and each row's sum."""
    if logits_RV.is_cpu:  # NumPy's argmax is vectorized, torch's is not: a tenth of the time
        rows_RV = logits_RV.numpy()
        return np.argmax(rows_RV, axis=1).tolist(), rows_RV.sum(axis=1).tolist()
    return torch.argmax(logits_RV, dim=1).tolist(), logits_RV.sum(dim=1).tolist()


def num_kept(sorted_V: Tensor, params: SamplingParams) -> int:
    """How many of the leading tokens survive the filters; at least one.

    Args: sorted_V: tempered logits in float64, descending [V].
    """
    if params.top_k:
        sorted_V = sorted_V[: params.top_k]
    probabilities_V = torch.softmax(sorted_V, dim=0)
    if params.top_p < 1:
        # A token stays while the mass before it is short of top_p, so the set just reaches it.
        mass_before_V = probabilities_V.cumsum(0) - probabilities_V
        probabilities_V = probabilities_V[: max(1, int((mass_before_V < params.top_p).sum()))]
    if params.min_p > 0:
        enough = probabilities_V >= params.min_p * probabilities_V[0]
        return max(1, int(enough.sum()))
    return len(probabilities_V)


def gumbel(seed: int | list[int], position: int | list[int], ids_K: Tensor) -> Tensor:
    """Standard Gumbel noise for each token id, float64, keyed by (seed, position, id).

    [K], or [R, K] for lists of R seeds and positions.
    """
    seeds, places = (torch.tensor(key, device=ids_K.device)[..., None] for key in (seed, position))
    bits_K = _mix(_mix(_mix(seeds) ^ places) ^ ids_K)
    # The top 53 bits, centred between neighbours: never 0 and never 1, so both logarithms exist.
    uniform_K = (_shift_right(bits_K, 11).double() + 0.5) * 2.0**-53
    return -torch.log(-torch.log(uniform_K))


def _shift_right(x: Tensor, count: int) -> Tensor:
    """Logical shift of int64 bits; torch's own shift copies the sign."""
    return (x >> count) & ((1 << (64 - count)) - 1)


def _mix(x: Tensor) -> Tensor:
    """One SplitMix64 step: a bijection of int64 whose output bits look independent."""
    x = x + _GOLDEN
    x = (x ^ _shift_right(x, 30)) * _MIX_1
    x = (x ^ _shift_right(x, 27)) * _MIX_2
    return x ^ _shift_right(x, 31)
