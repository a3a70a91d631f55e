"""Needles: one of several facts hidden in a longer text is asked for."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

from dougong.train.data.recall import (
    RELATIONS,
    conversation_of,
    draw_pairs,
    holds_only,
    how_many_questions,
)
from dougong.train.data.stories import plain_story
from dougong.train.data.task import Family, Generator, Task
from dougong.train.data.words import with_article

Filler = Callable[[random.Random, int], list[str]]
"""Sentences of a text of about so many characters; a pure function of the generator."""

KINDS = ("number", "code", "secret number", "room number", "magic number", "lucky number")
FIRST = 0.1  # share of samples that ask before the text


def story_filler(rng: random.Random, characters: int) -> list[str]:
    """Sentences of stories without anything spoken, whole stories one after the other."""
    sentences: list[str] = []
    while sum(map(len, sentences)) < characters:
        found = re.split(r"(?<=[.!?]) ", plain_story(rng))
        sentences += [line for line in found if '"' not in line]
    while sentences and sum(map(len, sentences)) > characters:
        sentences.pop()
    return sentences


def needle_task(
    rng: random.Random,
    *,
    keys: int,
    characters: int,
    held_out: bool = False,
    filler: Filler = story_filler,
    depth: float | None = None,
) -> Task:
    """`keys` facts about people hidden in about `characters` of filler; one or more are asked.

    Args:    depth: where the fact asked for stands, from 0 (beginning) to 1 (end), when a single
             question is asked; None: anywhere.
    """
    relation = rng.choice(RELATIONS)
    drawn = draw_pairs(rng, "strangers", relation.values, keys, held_out)
    people = {k: with_article(v) if relation.article else v for k, v in drawn.items()}
    kind = rng.choice(KINDS)
    if relation.told.startswith("The number"):
        told, question = f"The {kind} of {{k}} is {{v}}.", f"What is the {kind} of {{k}}?"
    else:
        told, question = relation.told, relation.asked
    count = how_many_questions(rng, keys, held_out or depth is not None)
    asked = rng.sample(list(people), count)
    lines = filler(rng, characters)
    ends = len(lines)
    for key, value in people.items():
        at = rng.randint(0, len(lines))
        if depth is not None and key == asked[0]:
            at = round(depth * ends)
        lines.insert(at, told.format(k=key, v=value))
    answer = told if relation.told.startswith("The number") else relation.answer
    questions = []
    for key in asked:
        others = [value for value in people.values() if value != people[key]]
        questions.append((
            question.format(k=key),
            answer.format(k=key, v=people[key]),
            holds_only(people[key], others),
        ))  # fmt: skip
    return conversation_of(" ".join(lines), questions, first=rng.random() < FIRST)


def needles(keys: int, low: int, high: int, filler: Filler = story_filler) -> Generator:
    """The generator of texts of `low` to `high` characters with `keys` facts."""

    def generate(rng: random.Random, *, held_out: bool = False) -> Task:
        characters = rng.randint(low, high)
        return needle_task(rng, keys=keys, characters=characters, held_out=held_out, filler=filler)

    return generate


def needle_family(name: str, low: int, high: int, filler: Filler = story_filler) -> Family:
    """1, 2, 4 and 8 keys in texts of this range of characters."""
    odds = {1: 20, 2: 35, 4: 30, 8: 15}
    kinds = {
        f"{keys} key{'s' * (keys > 1)}": (needles(keys, low, high, filler), share)
        for keys, share in odds.items()
    }
    return Family(name, kinds)


NEEDLES = needle_family("needles", 0, 700)
HAYSTACKS = needle_family("haystacks", 600, 6000)
