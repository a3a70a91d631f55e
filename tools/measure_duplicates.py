"""How much generated tasks repeat each other: equal samples, and runs of 13 words seen before.

    python tools/measure_duplicates.py [--draws 50000] [FAMILY ...]

A run counts as repeated if an earlier sample of the same family has it. Prompts and answers are
taken together, as training reads them. docs/data.md has the figures.
"""

from __future__ import annotations

import argparse
import random

from dougong.train.data.families import FAMILIES
from dougong.train.data.task import Task
from dougong.train.data.tokenizer import text_of

RUN_WORDS = 13


def words_of(task: Task) -> list[str]:
    """The words of the whole conversation."""
    return text_of(task).split()


def measure(name: str, draws: int) -> tuple[float, float]:
    """Shares of samples that are new, and of runs of RUN_WORDS words that are repeated."""
    rng = random.Random("duplicates")
    samples: set[int] = set()
    runs: set[int] = set()
    repeated = total = 0
    for _ in range(draws):
        words = words_of(FAMILIES[name](rng))
        samples.add(hash(tuple(words)))
        found = {hash(tuple(words[i : i + RUN_WORDS])) for i in range(len(words) - RUN_WORDS + 1)}
        total += len(found)
        repeated += len(found & runs)
        runs |= found
    return len(samples) / draws, repeated / max(total, 1)


def main() -> None:
    """Prints a line for each family."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("families", nargs="*", choices=[*FAMILIES, []])
    parser.add_argument("--draws", type=int, default=5000)
    arguments = parser.parse_args()
    print(f"{arguments.draws:,} draws: new samples, repeated runs of {RUN_WORDS} words")
    for name in arguments.families or FAMILIES:
        new, repeated = measure(name, arguments.draws)
        print(f"{name:<16}{new:>8.1%}{repeated:>8.1%}", flush=True)


if __name__ == "__main__":
    main()
