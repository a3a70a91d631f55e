"""Copying and looking up: what attention over the own context is for.

Repeat a phrase, copy, reverse or index a list, read who has what, find a number in a text. The
names for evaluation (`EVAL_NAMES`) never appear in training.
"""

from __future__ import annotations

import random

from dougong.train.data.sample import Sample, chat
from dougong.train.data.stories import capitalized, grammar, story, with_article

EVAL_NAMES = ("Otto", "Vera", "Felix", "Greta", "Boris", "Helen")
KINDS = ("number", "code", "secret number", "room number", "magic number")


def _things(rng: random.Random, count: int) -> list[str]:
    return rng.sample(sorted(grammar()["objects"]), count)


def _names(rng: random.Random, count: int) -> list[str]:
    return rng.sample(grammar()["boys"] + grammar()["girls"], count)


def repeat(rng: random.Random) -> Sample:
    """Say a word several times, or repeat a phrase."""
    word = rng.choice(_things(rng, 1) + [rng.choice(grammar()["animals"])])
    if rng.random() < 0.4:
        count, name = rng.choice(((2, "two"), (3, "three"), (4, "four"), (5, "five")))
        return chat(f'Say "{word}" {name} times.', " ".join([word] * count))
    phrase = " ".join(_things(rng, rng.randint(1, 4)))
    form = rng.choice(("Repeat after me: {}", "Say: {}", "Please repeat: {}", "Copy this: {}"))
    return chat(form.format(phrase), phrase)


def list_work(rng: random.Random) -> Sample:
    """Copy a list, turn it around, name its first, last or n-th word, or what follows a word."""
    words = _things(rng, rng.randint(3, 7))
    listed = ", ".join(words)
    i = rng.randrange(len(words) - 1)
    ordinal = ("first", "second", "third", "fourth", "fifth", "sixth")[i]
    tasks = (
        (f"Copy this list: {listed}", listed),
        (f"Write this list backwards: {listed}", ", ".join(reversed(words))),
        (
            f"What is the {ordinal} word in this list? {listed}",
            f"The {ordinal} word is {words[i]}.",
        ),
        (f"What is the last word in this list? {listed}", f"The last word is {words[-1]}."),
        (f"Which word comes after {words[i]}? {listed}", f"{capitalized(words[i + 1])}."),
    )
    return chat(*rng.choices(tasks, (35, 15, 20, 10, 20))[0])


def who_has_what(rng: random.Random) -> Sample:
    """A few sentences about who has which thing, and a question about one of them."""
    count = rng.randint(2, 5)
    names, things = _names(rng, count), _things(rng, count)
    adjectives = [rng.choice(grammar()["objects"][thing][0]) for thing in things]
    lines = [
        f"{name} has {with_article(f'{adjective} {thing}')}."
        for name, adjective, thing in zip(names, adjectives, things, strict=True)
    ]
    i, text = rng.randrange(count), " ".join(lines)
    tasks = (
        (f"What does {names[i]} have?", f"{names[i]} has a {adjectives[i]} {things[i]}."),
        (f"Who has the {things[i]}?", f"{names[i]} has the {things[i]}."),
    )
    question, answer = rng.choice(tasks)
    answer = answer.replace(f"a {adjectives[i]}", with_article(adjectives[i]))
    return chat(f"{text} {question}", answer)


def hide_numbers(rng: random.Random, names: list[str], filler: list[str], kind: str) -> Sample:
    """Puts `the KIND of NAME is ...` for each name between filler sentences and asks for one."""
    codes = [str(rng.randint(1000, 9999)) for _ in names]
    lines = list(filler)
    for name, code in zip(names, codes, strict=True):
        lines.insert(rng.randrange(len(lines) + 1), f"The {kind} of {name} is {code}.")
    i = rng.randrange(len(names))
    question = f"What is the {kind} of {names[i]}?"
    return chat(f"{' '.join(lines)} {question}", f"The {kind} of {names[i]} is {codes[i]}.")


def needle(rng: random.Random) -> Sample:
    """One to four numbers hidden in a story; one is asked for."""
    sentences = story(rng).turns[0].answer.split(". ")
    filler = [line.rstrip(".") + "." for line in sentences if '"' not in line]
    filler = filler[: rng.randint(0, len(filler))]
    return hide_numbers(rng, _names(rng, rng.randint(1, 4)), filler, rng.choice(KINDS))


def retrieval(rng: random.Random) -> Sample:
    """One task of this family."""
    kinds = (repeat, list_work, who_has_what, needle)
    return rng.choices(kinds, (20, 30, 25, 25))[0](rng)
