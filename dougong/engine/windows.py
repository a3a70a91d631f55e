"""Where resume points are kept, and what a request does that finds blocks but none (no torch)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from dougong.engine.scheduler import BLOCK_TOKENS
from dougong.errors import InputError


class Strategy(StrEnum):
    """How the windows behind a known prefix are come by."""

    FULL = "full"  # kept behind every block
    PERIODIC = "periodic"  # kept every `period` tokens and where prompts, answers and branches end
    ZERO = "zero"  # never kept: layers * (window - 1) tokens are replayed, exactly
    BOUNDED = "bounded"  # never kept: one window is replayed; the answer is approximate


@dataclass(frozen=True)
class Windows:
    """A strategy. Every one but `bounded` gives the bits of a cold start.

    Raises InputError unless `period` is a positive multiple of 128 tokens.
    """

    strategy: Strategy = Strategy.PERIODIC
    period: int = 8192

    def __post_init__(self) -> None:
        if self.period < BLOCK_TOKENS or self.period % BLOCK_TOKENS:
            raise InputError(f"windows: a period of {self.period} is no multiple of 128 tokens.")

    @property
    def keeps(self) -> bool:
        """Whether resume points are kept at all."""
        return self.strategy in (Strategy.FULL, Strategy.PERIODIC)

    @property
    def exact(self) -> bool:
        """Whether every answer has the bits of a cold start."""
        return self.strategy is not Strategy.BOUNDED

    def wanted(self, prompt_tokens: int) -> set[int]:
        """Numbers of blocks of a prompt behind which to keep one."""
        if not self.keeps:
            return set()
        last, every = prompt_tokens // BLOCK_TOKENS, self.period // BLOCK_TOKENS
        step = 1 if self.strategy is Strategy.FULL else every
        again = (prompt_tokens - 1) // BLOCK_TOKENS  # the same prompt computes its last token anew
        return {*range(step, last + 1, step), last, again} - {0}

    def replayed(self, layers: int, window: int) -> int:
        """Tokens that are run again before the first one that counts."""
        if self.strategy is Strategy.BOUNDED:
            return window - 1
        return layers * (window - 1)
