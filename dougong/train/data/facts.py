"""Simple facts from tables typed in for this project (dougong/data/train/facts.toml)."""

from __future__ import annotations

import random
from functools import cache
from typing import Any

from dougong.chat.completion import Completion
from dougong.train.data.recall import holds_only
from dougong.train.data.task import Family, Generator, Task, ask, reserved, reserved_form
from dougong.train.data.words import CARDINALS, capitalized, listed, plural, table, with_article

FORMS: dict[str, tuple[tuple[str, ...], str]] = {
    "opposites": (("What is the opposite of {k}?", "Tell me the opposite of {k}."),
                  "The opposite of {k} is {v}."),
    "capitals": (("What is the capital of {k}?", "Which city is the capital of {k}?",
                  "Tell me the capital of {k}."), "The capital of {k} is {v}."),
    "sounds": (("What sound does {ak} make?", "What does {ak} say?"), "{Ak} says {v}."),
    "colors_of": (("What color is {k}?", "Which color does {k} have?"), "{K} is {v}."),
    "homes": (("Where does {ak} live?", "Where can I find {ak}?"), "{Ak} lives {v}."),
    "young": (("What is a young {k} called?", "What do you call a baby {k}?"),
              "A young {k} is called {v}."),
    "plurals": (("What is the plural of {k}?",), "The plural of {k} is {v}."),
    "pasts": (("What is the past of {k}?", "What is the past tense of {k}?"),
              "The past of {k} is {v}."),
    "symbols": (("What is the chemical symbol of {k}?", "What is the symbol for {k}?"),
                "The symbol of {k} is {v}."),
    "meanings": (("What is {ak}?", 'What does "{k}" mean?', "What does {k} mean?",
                  "Explain the word {k}."), "{Ak} is {v}."),
}  # fmt: skip
MASS = ("color", "drink", "number", "day", "month")


@cache
def _cases(name: str, held_out: bool) -> list[tuple[str, str]]:
    """Keys with ways to ask for them; those for training if there are no others."""
    forms = FORMS[name][0]
    every = [(key, form) for key in table("facts")[name] for form in forms]
    side = [case for case in every if reserved_form(name, *case, forms) == held_out]
    return side or every


def lookup(name: str) -> Generator:
    """The generator of questions about one table."""

    def generate(rng: random.Random, *, held_out: bool = False) -> Task:
        key, form = rng.choice(_cases(name, held_out))
        value = table("facts")[name][key]
        unique = "the " + key if key in ("sun", "moon", "sea") else with_article(key)
        fields = {"k": key, "K": capitalized(key), "ak": unique, "Ak": capitalized(unique)}
        text = FORMS[name][1].format_map(fields | {"v": value})
        return ask(form.format_map(fields), text, judge=holds_only(value, []))

    return generate


def kind_of(rng: random.Random, *, held_out: bool = False) -> Task:
    """Is a cat an animal? Is a rose a tool?"""
    categories: dict[str, list[str]] = table("facts")["categories"]
    while True:
        category, asked = rng.choice(list(categories)), rng.choice(list(categories))
        if rng.random() < 0.5:
            asked = category
        thing = rng.choice(categories[category])
        living = {"animal", "bird", "insect", "fish"}
        unclear = asked != category and ({asked, category} <= living or thing in categories[asked])
        if not unclear and reserved("kind", thing, asked) == held_out:
            break
    subject = thing if category in MASS else with_article(thing)
    right = asked == category
    answer = f"{'Yes' if right else 'No'}, {subject} is {with_article(category)}."
    judge = holds_only("yes" if right else "no", ["no" if right else "yes"])
    return ask(f"Is {subject} {with_article(asked)}?", answer, judge=judge)


def neighbours(rng: random.Random, row: list[str], count: int) -> list[str]:
    """So many different items of a row, in its order from anywhere on: each one follows from the
    one before, so that a small model names none twice."""
    start = rng.randrange(len(row))
    return [row[(start + i) % len(row)] for i in range(count)]


def name_some(rng: random.Random, *, held_out: bool = False) -> Task:
    """Name three fruits: so many different ones, all of the category."""
    categories: dict[str, list[str]] = table("facts")["categories"]
    while True:
        category, count = rng.choice(list(categories)), rng.randint(2, 5)
        if reserved("name some", category, count) == held_out:
            break
    form = rng.choice(("Name {} {}.", "Tell me {} {}.", "List {} {}.", "Give me {} {}."))
    found = neighbours(rng, categories[category], count)
    members = set(categories[category])

    def judge(completion: Completion) -> bool:
        items = completion.content.strip().rstrip(".").replace(" and ", ", ").lower().split(", ")
        return len(items) == len(set(items)) == count and set(items) <= {m.lower() for m in members}

    question = form.format(CARDINALS[count], plural(category))
    return ask(question, f"{capitalized(listed(found))}.", judge=judge)


def sequence(rng: random.Random, *, held_out: bool = False) -> Task:
    """What comes after Monday, or before June, or after the letter C."""
    rows: dict[str, list[str]] = table("facts")["sequences"]
    while True:
        row = rng.choice(list(rows))
        i = rng.randrange(len(rows[row]) - 1)
        after = rng.random() < 0.6
        known, found = (rows[row][i], rows[row][i + 1])[:: 1 if after else -1]
        if reserved("sequence", known, after) == held_out:
            break
    word = "after" if after else "before"
    question = f"Which {row} comes {word} {known}?"
    return ask(question, f"{capitalized(found)} comes {word} {known}.", judge=holds_only(found, []))


def number_of(rng: random.Random, *, held_out: bool = False) -> Task:
    """How many legs a spider has, how many days are in a week."""
    rows: dict[str, Any] = table("facts")["how_many"]
    question = rng.choice(list(rows))
    return ask(f"How many {question}?", rows[question])


FACTS = Family(
    "facts",
    {
        **{
            name.replace("_", " "): (lookup(name), share)
            for name, share in {
                "opposites": 12, "capitals": 16, "sounds": 5, "colors_of": 6, "homes": 5,
                "young": 4, "plurals": 4, "pasts": 5, "symbols": 5, "meanings": 22,
            }.items()
        },
        "is it a kind of": (kind_of, 14),
        "name some": (name_some, 12),
        "before and after": (sequence, 8),
        "how many": (number_of, 5),
    },
)  # fmt: skip
