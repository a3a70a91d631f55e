"""Samples longer than one question: conversations of several tasks, numbers hidden far back."""

from __future__ import annotations

import random

from dougong.train.data.arithmetic import arithmetic
from dougong.train.data.retrieval import KINDS, hide_numbers, retrieval
from dougong.train.data.sample import Generator, Sample, Turn
from dougong.train.data.stories import grammar, story
from dougong.train.data.talk import simple_facts, small_talk

TASKS: tuple[Generator, ...] = (story, small_talk, arithmetic, retrieval, simple_facts)
WEIGHTS = (35, 25, 15, 15, 10)
NAME_ASKED_BACK = 0.25


def conversation(rng: random.Random) -> Sample:
    """Two to five tasks in one chat; sometimes the user's name, told first, is asked at the end."""
    turns: list[Turn] = []
    for generator in rng.choices(TASKS, WEIGHTS, k=rng.randint(2, 5)):
        turns += generator(rng).turns
    if rng.random() < NAME_ASKED_BACK:
        name = rng.choice(grammar()["boys"] + grammar()["girls"])
        turns.insert(0, Turn(f"My name is {name}.", f"Nice to meet you, {name}!"))
        turns.append(Turn("What is my name?", f"Your name is {name}."))
    return Sample(turns=tuple(turns))


def far_needle(rng: random.Random) -> Sample:
    """One to four numbers hidden in two or three stories; one of them is asked for."""
    filler: list[str] = []
    for _ in range(rng.randint(2, 3)):
        sentences = story(rng).turns[0].answer.split(". ")
        filler += [line.rstrip(".") + "." for line in sentences if '"' not in line]
    names = rng.sample(grammar()["boys"] + grammar()["girls"], rng.randint(1, 4))
    return hide_numbers(rng, names, filler, rng.choice(KINDS))


def long_sample(rng: random.Random) -> Sample:
    """One sample of this family."""
    return rng.choices((conversation, far_needle), (70, 30))[0](rng)
