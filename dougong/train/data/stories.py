"""Little stories from a grammar with a state: two characters, an object, a place, a plot.

Words, plots and phrasings are data (dougong/data/train/stories.toml). A plot is a list of slots; a
story takes one phrasing from each and fills in the same characters, so that names, pronouns and the
object agree from the first sentence to the last. A request may name words that the story must use.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from dougong.chat.completion import Completion
from dougong.train.data.task import Check, Family, Generator, Task, Text, ask, part_of, reserved
from dougong.train.data.words import capitalized, table, with_article

PRONOUNS = {
    "boy": {"he": "he", "him": "him", "his": "his", "himself": "himself"},
    "girl": {"he": "she", "him": "her", "his": "her", "himself": "herself"},
}
MIN_WORDS, MAX_WORDS = 40, 250


def grammar() -> dict[str, Any]:
    """The story grammar as read from the package: word lists, objects and plots."""
    return table("stories")


@cache
def story_names(gender: str) -> tuple[str, ...]:
    """Names of boys or girls, without those kept for evaluation."""
    return tuple(part_of("name", grammar()[gender + "s"], held_out=False))


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
    names = [name for name in story_names(gender) if taken is None or name != taken.name]
    child = kind in ("boy", "girl") or (kind is None and rng.random() < 0.2)
    if child:
        if kind is not None:
            gender = kind
            names = list(story_names(gender))
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
        "thing": thing, "a_thing": with_article(thing), "o": f"the {thing}",
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
    "Write a story that uses the words {ak} and {ok}.",
    "Use the words {ok} and {ak} in a short story.",
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
    return reserved("story", kind, thing)


def is_story_with(words: Sequence[str]) -> Check:
    """The judge that wants a text of a story's length in which all these words occur."""

    def judge(completion: Completion) -> bool:
        told = re.findall(r"\w+", completion.content.lower())
        return MIN_WORDS <= len(told) <= MAX_WORDS and set(words) <= set(told)

    return judge


def _cast(rng: random.Random, held_out: bool) -> tuple[Character, Character, str]:
    """Two characters and an object; hero and object are a pair for the right side."""
    words = grammar()
    while True:
        a = _character(rng, words["traits"], None)
        b = _character(rng, words["helper_traits"], a)
        things = [t for t in words["objects"] if pair_is_reserved(a.kind, t) == held_out]
        if things:
            return a, b, rng.choice(things)


def plain_story(rng: random.Random) -> str:
    """A story's text alone."""
    return tell(rng, *_cast(rng, held_out=False))


def tale(rng: random.Random) -> Text:
    """A story as running text, so that the model also continues one without being asked."""
    return Text(plain_story(rng))


def story_request(forms: Sequence[str]) -> Generator:
    """The generator of stories asked for in one of these forms; the words asked for are used."""

    def generate(rng: random.Random, *, held_out: bool = False) -> Task:
        a, b, thing = _cast(rng, held_out)
        form = rng.choice(forms)
        who = with_article(a.kind)
        if a.kind in ("boy", "girl") and rng.random() < 0.5:
            who += f" named {a.name}"
        wanted = {"{a": a.kind, "{b": b.kind, "{o": thing}
        fields = {"a": who, "ak": a.kind, "b": with_article(b.kind)}
        fields |= {"o": with_article(thing), "ok": thing}
        judge = is_story_with([word for mark, word in wanted.items() if mark in form])
        return ask(form.format_map(fields), tell(rng, a, b, thing), judge=judge)

    return generate


STORIES = Family(
    "stories",
    {
        "story with two words": (story_request(ABOUT_BOTH), 60),
        "story with two animals": (story_request(ABOUT_TWO), 12),
        "story with one word": (story_request(ABOUT_ONE), 10),
        "story begun": (story_request(BEGUN), 9),
        "any story": (story_request(ABOUT_NOTHING), 9),
    },
)
