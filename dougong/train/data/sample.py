"""What one training sample is before it becomes tokens, and what is kept out of training.

A `Sample` is a short conversation (rendered by the real prompt encoder, loss on the answers) or a
piece of running text (loss everywhere). Generators are pure functions of a `random.Random`.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Turn:
    """A question with its answer; `thinking` is the reasoning, None in non-thinking mode."""

    question: str
    answer: str
    thinking: str | None = None


@dataclass(frozen=True)
class Sample:
    """One training sample: `turns` of a conversation, or running `text` when there are none."""

    turns: tuple[Turn, ...] = ()
    text: str = ""
    system: str = ""


Generator = Callable[[random.Random], Sample]

RESERVED_ONE_IN = 10


def is_reserved(*parts: object) -> bool:
    """Tells whether this combination (operands, story words ...) is kept for evaluation.

    One in ten, by a hash of the parts' text, so training and evaluation agree without a list.
    """
    key = "|".join(str(part) for part in parts)
    return zlib.crc32(key.encode()) % RESERVED_ONE_IN == 0


def chat(question: str, answer: str, thinking: str | None = None) -> Sample:
    """A conversation of one turn."""
    return Sample(turns=(Turn(question, answer, thinking),))
