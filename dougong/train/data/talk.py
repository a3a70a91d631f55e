"""Small talk, identity and simple facts, from tables typed in for this project (data/train)."""

from __future__ import annotations

import random
import tomllib
from functools import cache
from importlib import resources
from typing import Any

from dougong.train.data.sample import Sample, Turn, chat
from dougong.train.data.stories import capitalized, grammar, with_article


@cache
def _table(name: str) -> dict[str, Any]:
    text = resources.files("dougong").joinpath(f"data/train/{name}.toml").read_text("utf-8")
    return tomllib.loads(text)


def _exchange(rng: random.Random) -> Turn:
    pair = rng.choice(_table("talk")["pair"])
    question = rng.choice(pair["ask"])
    if rng.random() < 0.2:  # people leave out the last mark, or all capitals
        question = question.rstrip(".!?")
    if rng.random() < 0.1:
        question = question.lower()
    return Turn(question, rng.choice(pair["answer"]))


def small_talk(rng: random.Random) -> Sample:
    """A chat of one to three exchanges; sometimes the user's name is told and asked back."""
    if rng.random() < 0.12:
        name = rng.choice(grammar()["boys"] + grammar()["girls"])
        told = Turn(rng.choice((f"My name is {name}.", f"I am {name}.", f"Hi, I am {name}.")),
                    f"Nice to meet you, {name}!")  # fmt: skip
        between = [_exchange(rng)] if rng.random() < 0.4 else []
        return Sample(turns=(told, *between, Turn("What is my name?", f"Your name is {name}.")))
    count = rng.choices((1, 2, 3), (70, 20, 10))[0]
    return Sample(turns=tuple(_exchange(rng) for _ in range(count)))


def _category(rng: random.Random, facts: dict[str, Any]) -> Sample:
    """Is a cat an animal? Name three fruits."""
    categories = facts["categories"]
    category = rng.choice(sorted(categories))
    if rng.random() < 0.35:
        count, word = rng.choice(((2, "two"), (3, "three"), (4, "four")))
        named = rng.sample(categories[category], count)
        listed = ", ".join(named[:-1]) + " and " + named[-1]
        return chat(f"Name {word} {category}s.", f"{capitalized(listed)}.")
    thing = rng.choice(categories[category])
    countable = category not in ("color", "drink", "number")
    subject = with_article(thing) if countable else thing
    kind = with_article(category)
    asked = category if rng.random() < 0.5 else rng.choice(sorted(categories))
    asked_kind = with_article(asked)
    question = f"Is {subject} {asked_kind}?"
    if asked == category:
        return chat(question, f"Yes, {subject} is {kind}.")
    if {asked, category} <= {"animal", "bird", "insect"}:
        asked, asked_kind = "tool", "a tool"
    return chat(f"Is {subject} {asked_kind}?", f"No, {subject} is {kind}.")


def _lookup(rng: random.Random, facts: dict[str, Any]) -> Sample:
    """One row of one table, asked in one of its forms."""
    forms = (
        ("opposites", ("What is the opposite of {k}?",), "The opposite of {k} is {v}."),
        ("capitals", ("What is the capital of {k}?", "Which city is the capital of {k}?"),
         "The capital of {k} is {v}."),
        ("sounds", ("What sound does {ak} make?", "What does {ak} say?"), "{Ak} says {v}."),
        ("colors_of", ("What color is {k}?",), "{K} is {v}."),
        ("homes", ("Where does {ak} live?",), "{Ak} lives {v}."),
        ("meanings", ("What is {ak}?", 'What does "{k}" mean?', "What does {k} mean?"),
         "{Ak} is {v}."),
    )  # fmt: skip
    table, questions, answer = rng.choices(forms, (15, 20, 10, 10, 8, 37))[0]
    key = rng.choice(sorted(facts[table]))
    unique = "the " + key if key in ("sun", "moon", "sea") else with_article(key)
    fields = {"k": key, "K": capitalized(key), "ak": unique, "Ak": capitalized(unique)}
    value = facts[table][key]
    return chat(rng.choice(questions).format_map(fields), answer.format_map(fields | {"v": value}))


def simple_facts(rng: random.Random) -> Sample:
    """A question about the small table of facts, categories and meanings."""
    facts = _table("facts")
    return _category(rng, facts) if rng.random() < 0.3 else _lookup(rng, facts)
