"""The prefix cache: how much of a prompt is a hit, and what keeping it on disk costs.

Compressed entries are always stored. Window entries, about eight times their volume, are kept by
one of three strategies.  Source: arXiv 2606.19348 (on-disk cache).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dougong.config import V4Config
from dougong.errors import InputError
from dougong.plan.kv import kv_bytes_per_token, window_bytes_per_token

DiskStrategy = Literal["full", "periodic", "zero"]


@dataclass(frozen=True, kw_only=True)
class DiskCost:
    """Per request: bytes written for its prompt, bytes read on a hit, tokens computed again."""

    strategy: DiskStrategy
    window_write_bytes: float
    compressed_write_bytes: float
    window_read_bytes: float
    compressed_read_bytes: float
    recomputed_tokens: float


def window_to_compressed(config: V4Config) -> float:
    """Volume of window entries over compressed ones, both per token, entry for entry.

    L / sum(1 / ratio): 7.88 for Pro, 7.95 for Flash (index keys not counted).
    """
    ratios = config.compress_ratios[: config.num_hidden_layers]
    per_token = sum(1 / ratio for ratio in ratios if ratio)
    return config.num_hidden_layers / per_token


def replay_tokens(config: V4Config, exact: bool = False) -> int:
    """Tokens to run again when no window is stored: n_win L (7,808 Pro, 5,504 Flash).

    The exact minimum is L (n_win - 1) + 1, since a window includes its own token.
    """
    layers, window = config.num_hidden_layers, config.sliding_window
    return layers * (window - 1) + 1 if exact else layers * window


def disk_cost(
    config: V4Config, prompt_len: int, strategy: DiskStrategy, period: int = 4096
) -> DiskCost:
    """What one strategy costs for a prompt of `prompt_len` tokens and a later full hit on it.

    full: every window entry; periodic: n_win entries per `period` tokens, period / 2 tokens again
    on average; zero: none, n_win L tokens again. `period` must be a multiple of 128.
    """
    if strategy == "periodic" and (period < 128 or period % 128):
        raise InputError(f"the period is {period}; a multiple of 128 (lcm of 4 and 128) is wanted")
    per_token, window = window_bytes_per_token(config), config.sliding_window
    stored = {"full": prompt_len, "periodic": prompt_len * window / period, "zero": 0}
    again = {
        "full": 0.0,
        "periodic": min(period / 2, prompt_len),
        "zero": min(replay_tokens(config), prompt_len),
    }
    if strategy not in stored:
        raise InputError(f"disk strategy {strategy!r} is unknown; use full, periodic or zero")
    compressed = prompt_len * kv_bytes_per_token(config)
    return DiskCost(
        strategy=strategy,
        window_write_bytes=stored[strategy] * per_token,
        compressed_write_bytes=compressed,
        window_read_bytes=0.0 if strategy == "zero" else min(window, prompt_len) * per_token,
        compressed_read_bytes=compressed,
        recomputed_tokens=float(again[strategy]),
    )


def conversation_hit_rate(turns: int, system: int, user: int, answer: int) -> float:
    """Share of a conversation's prompt tokens that were computed before, if nothing is evicted.

    Turn t's prompt is the system text and t - 1 exchanges (all seen) and a new user text; the
    system text of the first turn counts as seen, since conversations share it.
    """
    if turns < 1 or min(system, user, answer) < 0 or user + system < 1:
        raise InputError(
            "a conversation needs at least one turn and a prompt of at least one token"
        )
    seen = sum(system + turn * (user + answer) for turn in range(turns))
    return seen / (seen + turns * user)
