"""Names, things and made-up words that several generators draw from, and plain English forms."""

from __future__ import annotations

import random
import tomllib
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any, Protocol

from dougong.train.data.task import part_of, reserved

VOWELS = "aeiou"
MADE_UP_NAMES = 0.4  # share of names that nobody has
CARDINALS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
_ONSETS = ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "br", "st", "tr")
_CODAS = ("", "", "", "n", "r", "l", "k", "s", "t", "m")
_IRREGULAR = {
    "mouse": "mice", "goose": "geese", "wolf": "wolves", "knife": "knives", "leaf": "leaves",
    "scarf": "scarves", "sheep": "sheep", "deer": "deer", "fish": "fish", "moose": "moose",
    "tomato": "tomatoes", "potato": "potatoes", "shelf": "shelves", "child": "children",
}  # fmt: skip


@cache
def table(name: str) -> dict[str, Any]:
    """A table of the package's own words: `dougong/data/train/NAME.toml`."""
    text = resources.files("dougong").joinpath(f"data/train/{name}.toml").read_text("utf-8")
    return tomllib.loads(text)


@cache
def pool(role: str) -> tuple[str, ...]:
    """The words of one role in words.toml: names, things, animals, colors, places ..."""
    return tuple(table("words")[role].split())


@cache
def names(held_out: bool = False) -> tuple[str, ...]:
    """First names; those for evaluation are never seen in training."""
    stories = table("stories")
    everyone = (*pool("names"), *stories["boys"], *stories["girls"])
    return tuple(part_of("name", list(dict.fromkeys(everyone)), held_out))


@cache
def strangers(held_out: bool = False) -> tuple[str, ...]:
    """First names that no story uses: facts about them stand out from a story around them."""
    stories = table("stories")
    return tuple(name for name in names(held_out) if name not in stories["boys"] + stories["girls"])


def made_up_word(rng: random.Random, *, held_out: bool = False) -> str:
    """Two or three syllables that mean nothing: `kavo`, `stirum`."""
    while True:
        syllables = [
            rng.choice(_ONSETS) + rng.choice(VOWELS) + rng.choice(_CODAS)
            for _ in range(rng.choice((2, 2, 3)))
        ]
        word = "".join(syllables)
        if reserved("word", word) == held_out:
            return word


def draw_name(rng: random.Random, *, held_out: bool = False) -> str:
    """A first name, or one that nobody has.

    Every first name that training shows becomes a token of its own; those for evaluation come in
    pieces, and so do made-up ones, which must be read where they stand.
    """
    if rng.random() < MADE_UP_NAMES:
        return capitalized(made_up_word(rng, held_out=held_out))
    return rng.choice(names(held_out))


def draw_names(rng: random.Random, count: int, *, held_out: bool = False) -> list[str]:
    """Different names, for evaluation first names only."""
    if held_out:
        return rng.sample(names(held_out), count)
    return different(draw_name, rng, count)


def code(rng: random.Random, *, held_out: bool = False) -> str:
    """A number of two to five digits, or a letter and three digits: `4837`, `K205`."""
    while True:
        digits = rng.choices((2, 3, 4, 5), (2, 3, 4, 1))[0]
        text = str(rng.randrange(10 ** (digits - 1), 10**digits))
        if rng.random() < 0.2:
            text = rng.choice("ABCDEFGHKLMNPRSTUVWXYZ") + text[:3]
        if reserved("code", text) == held_out:
            return text


class DrawWord(Protocol):
    """Draws one word, name or number."""

    def __call__(self, rng: random.Random, *, held_out: bool = False) -> str:
        """The drawn text."""


def different(
    draw: DrawWord, rng: random.Random, count: int, *, held_out: bool = False
) -> list[str]:
    """`count` different results of `draw(rng, held_out=...)`."""
    found: dict[str, None] = {}
    while len(found) < count:
        found[draw(rng, held_out=held_out)] = None
    return list(found)


def with_article(phrase: str) -> str:
    """`owl` -> `an owl`, `small key` -> `a small key`."""
    return ("an " if phrase[0].lower() in VOWELS else "a ") + phrase


def plural(noun: str) -> str:
    """`box` -> `boxes`, `berry` -> `berries`, `mouse` -> `mice`."""
    if noun in _IRREGULAR:
        return _IRREGULAR[noun]
    if noun[-1] == "y" and noun[-2] not in VOWELS:
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("s", "x", "ch", "sh")) else "s")


def counted(count: int, noun: str) -> str:
    """`1 egg`, `3 eggs`."""
    return f"{count} {noun if count == 1 else plural(noun)}"


def capitalized(text: str) -> str:
    """Upper-cases the first letter only."""
    return text[:1].upper() + text[1:]


def listed(items: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join((", ".join(items[:-1]), items[-1])) if len(items) > 1 else items[0]
