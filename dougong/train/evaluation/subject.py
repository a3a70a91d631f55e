"""What is evaluated, and how: the model with its tokenizer, the seed, how much to ask."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dougong.chat.tokenizer import Tokenizer
from dougong.errors import DougongError
from dougong.train.evaluation.answering import Question, Reply, answer_all
from dougong.train.evaluation.reading import Readable

Say = Callable[[str, int, int], None]  # told what is being done, how much is done, of how much


class LeftOutError(DougongError):
    """A suite cannot run here; the others can. The message says what it needs."""


def silent(_what: str, _done: int, _total: int) -> None:
    """Reports nothing."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model under evaluation.

    context_tokens: the longest text it takes. folder: where `dougong train` keeps the packages it
    fetched. quick: ask less, for a first look.
    """

    model: Readable
    tokenizer: Tokenizer
    context_tokens: int
    folder: Path
    seed: int = 0
    quick: bool = False
    say: Say = silent

    def rng(self, *what: object) -> random.Random:
        """The random numbers of one part of one suite; no other part can disturb them."""
        return random.Random("/".join(map(str, ("evaluation", self.seed, *what))))

    def answers(self, what: str, questions: Sequence[Question]) -> list[Reply]:
        """Greedy (or drawn) answers to all questions, side by side."""
        return answer_all(
            self.model,
            questions,
            stop_id=self.tokenizer.eos_id,
            num_ids=self.tokenizer.num_ids,
            report=lambda done, total: self.say(what, done, total),
        )
