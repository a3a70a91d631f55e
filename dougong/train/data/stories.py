"""Little stories from a grammar with a state: two characters, an object, a place, a plot.

Words, plots and phrasings are data (dougong/data/train/stories.toml). A plot is a list of slots; a
story takes one phrasing from each and fills in the same characters, so that names, pronouns and the
object agree from the first sentence to the last. A request may name words that the story must use.
"""

from __future__ import annotations

import random
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from dougong.train.data.sample import Sample, chat, is_reserved

PRONOUNS = {
    "boy": {"he": "he", "him": "him", "his": "his", "himself": "himself"},
    "girl": {"he": "she", "him": "her", "his": "her", "himself": "herself"},
}
VOWELS = "aeiou"


@cache
def grammar() -> dict[str, Any]:
    """The story grammar as read from the package: word lists, objects and plots."""
    text = resources.files("dougong").joinpath("data/train/stories.toml").read_text("utf-8")
    return tomllib.loads(text)


def with_article(phrase: str) -> str:
    """`owl` -> `an owl`, `small key` -> `a small key`."""
    return ("an " if phrase[0].lower() in VOWELS else "a ") + phrase


def capitalized(text: str) -> str:
    """Upper-cases the first letter only."""
    return text[:1].upper() + text[1:]


@dataclass(frozen=True)
class Character:
    """What it is (`fox`, `girl`), its name or None, its gender (`boy`, `girl`), its trait."""

    kind: str
    name: str | None
    gender: str
    trait: str

    @property
    def reference(self) -> str:
        """How later sentences call it: the name, or `the fox`."""
        return self.name or f"the {self.kind}"

    @property
    def introduction(self) -> str:
        """How the first sentence brings it in: `a kind owl named Ola`."""
        named = f" named {self.name}" if self.name else ""
        return with_article(f"{self.trait} {self.kind}") + named


def _character(
    rng: random.Random, traits: list[str], taken: Character | None, kind: str | None = None
) -> Character:
    """Draws a character that shares neither kind nor name with `taken`, nor its pronoun mostly."""
    words = grammar()
    gender = rng.choice(("boy", "girl"))
    if taken is not None and rng.random() < 0.7:
        gender = "girl" if taken.gender == "boy" else "boy"
    others = [animal for animal in words["animals"] if taken is None or animal != taken.kind]
    names = [name for name in words[gender + "s"] if taken is None or name != taken.name]
    child = kind in ("boy", "girl") or (kind is None and rng.random() < 0.2)
    if child:
        if kind is not None:
            gender = kind
            names = words[gender + "s"]
        elif taken is not None and taken.kind == gender:
            child = False
    if child:
        traits = [trait for trait in traits if trait not in ("old", "wise", "big")]
        return Character(gender, rng.choice(names), gender, rng.choice(traits))
    name = rng.choice(names) if rng.random() < 0.6 else None
    return Character(kind or rng.choice(others), name, gender, rng.choice(traits))


def _fields(rng: random.Random, a: Character, b: Character, thing: str) -> dict[str, str]:
    """Everything that a phrasing may refer to."""
    words = grammar()
    adjectives, use, using, mend = words["objects"][thing]
    when, night = rng.choice(words["when"]), rng.choice(words["nights"])
    first, second = PRONOUNS[a.gender], PRONOUNS[b.gender]
    fields = {
        "a": a.reference, "new_a": a.introduction, "b": b.reference, "new_b": b.introduction,
        **first, **{"b" + key: value for key, value in second.items()},
        "thing": thing, "o": f"the {thing}",
        "an_o": with_article(f"{rng.choice(adjectives)} {thing}"),
        "use": use, "using": using, "fix": mend, "place": rng.choice(words["places"]),
        "spot": rng.choice(words["spots"]), "glad": rng.choice(words["glad"]),
        "feel": rng.choice(words["feel"]), "when": when, "when_low": when[0].lower() + when[1:],
        "when_night": night, "b_intro": b.introduction,
    }  # fmt: skip
    for key in ("a", "b", "new_a", "new_b", "he", "his", "bhe"):
        fields[capitalized(key)] = capitalized(fields[key])
    return fields


def tell(rng: random.Random, a: Character, b: Character, thing: str) -> str:
    """One story about `a` and `b` and the object `thing`, as a single paragraph."""
    words = grammar()
    mends = bool(words["objects"][thing][3])
    plots = [plot for plot in words["plots"] if mends or plot.get("needs") != "mends"]
    plot = rng.choice(plots)
    fields = _fields(rng, a, b, thing)
    slots = [words["openings"], *([words["owning"]] if plot.get("owns") else []), *plot["slots"]]
    return " ".join(rng.choice(slot).format_map(fields) for slot in slots)


ABOUT_BOTH = (
    "Write a story about {a} and {o}.", "Tell me a story about {a} and {o}.",
    "Please write a short story about {a} and {o}.", "Can you tell me a story about {a} and {o}?",
    "I want a story about {a} and {o}.", "Write a little story with {a} and {o}.",
)  # fmt: skip
ABOUT_ONE = (
    "Tell me a story about {a}.", "Write a story about {a}.", "Please tell me about {a}.",
    "Can you write a short story about {a}?",
)  # fmt: skip
ABOUT_TWO = (
    "Write a story about {a} and {b}.", "Tell me a story about {a} and {b}.",
    "Can you tell me a story about {a} and {b}?",
)  # fmt: skip
BEGUN = (
    "Once upon a time", "Once upon a time,", "Once upon a time there was {a}.",
    "Once upon a time, there was {a}", "There once was {a}.",
)  # fmt: skip
ABOUT_NOTHING = (
    "Tell me a story.", "Write a short story.", "Please tell me a story.",
    "Can you tell me a story?", "I want to hear a story.", "Write a little story for me.",
)  # fmt: skip


def pair_is_reserved(kind: str, thing: str) -> bool:
    """Whether stories with this pair of words are kept for evaluation."""
    return is_reserved("story", kind, thing)


def story(rng: random.Random) -> Sample:
    """A request for a story and the story; the pair of words is never a reserved one."""
    words = grammar()
    a = _character(rng, words["traits"], None)
    b = _character(rng, words["helper_traits"], a)
    things = [t for t in words["objects"] if not pair_is_reserved(a.kind, t)]
    thing = rng.choice(things)
    text = tell(rng, a, b, thing)
    dice = rng.random()
    forms: tuple[str, ...]
    if dice < 0.60:
        forms = ABOUT_BOTH
    elif dice < 0.72:
        forms = ABOUT_TWO
    elif dice < 0.82:
        forms = ABOUT_ONE
    elif dice < 0.90:
        forms = BEGUN
    else:
        forms = ABOUT_NOTHING
    form = rng.choice(forms)
    who = with_article(a.kind)
    if a.kind in ("boy", "girl") and rng.random() < 0.5:
        who += f" named {a.name}"
    return chat(form.format(a=who, b=with_article(b.kind), o=with_article(thing)), text)


def tale(rng: random.Random) -> Sample:
    """A story as running text, so that the model also continues one without being asked."""
    return Sample(text=story(rng).turns[0].answer)
