"""Looking up: which of several values belongs to the key that is asked for.

A small model learns to select only if it selects often. So the keys and values are of many sorts,
made-up words among them, which cannot be learnt by heart; the answer mostly repeats the key right
before the value; and most samples ask several questions, so that each has many trained tokens.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from dougong.chat.completion import Completion
from dougong.train.data.task import Check, Family, Generator, Message, Task, ask, reserved
from dougong.train.data.words import (
    MADE_UP_NAMES,
    capitalized,
    code,
    made_up_word,
    names,
    pool,
    strangers,
    with_article,
)

MAX_QUESTIONS = 8


@dataclass(frozen=True)
class Relation:
    """How a fact about a key is told and asked, forwards and backwards; {k} key, {v} value."""

    told: str
    asked: str
    answer: str
    asked_back: str
    values: str
    article: bool = False


RELATIONS = (
    Relation("{k} has {v}.", "What does {k} have?", "{k} has {v}.", "Who has {v}?", "things", True),
    Relation("{k} likes {v}.", "What does {k} like?", "{k} likes {v}.", "Who likes {v}?", "foods"),
    Relation("{k} lives in {v}.", "Where does {k} live?", "{k} lives in {v}.",
             "Who lives in {v}?", "places"),
    Relation("{k} is {v}.", "What does {k} do?", "{k} is {v}.", "Who is {v}?", "jobs",
             True),
    Relation("The number of {k} is {v}.", "What is the number of {k}?", "The number of {k} is {v}.",
             "Who has the number {v}?", "code"),
    Relation("The code of {k} is {v}.", "What is the code of {k}?", "The code of {k} is {v}.",
             "Whose code is {v}?", "code"),
    Relation("The color of {k} is {v}.", "What is the color of {k}?", "The color of {k} is {v}.",
             "Whose color is {v}?", "colors"),
    Relation("The word of {k} is {v}.", "What is the word of {k}?", "The word of {k} is {v}.",
             "Whose word is {v}?", "made up"),
)  # fmt: skip
LAYOUTS = (("{k}: {v}", "\n"), ("{k} = {v}", "; "), ("{k} -> {v}", ", "), ("{k} {v}", ", "))


PAIR_FORMS = (  # a question for a value, and whether the whole line answers it
    ("Look up {}.", True), ("Find {}.", True), ("Which line has {}?", True),
    ("{}?", False), ("What is {}?", False),
)  # fmt: skip


def holds_only(value: str, others: Sequence[str]) -> Check:
    """The judge that wants `value` in the answer and none of the `others`, as whole words."""

    def judge(completion: Completion) -> bool:
        text = completion.content.lower()
        return _mentions(text, value) and not any(_mentions(text, other) for other in others)

    return judge


def _mentions(text: str, phrase: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(phrase.lower())}(?!\w)", text) is not None


def draw_word(rng: random.Random, sort: str, held_out: bool) -> str:
    """A name, a made-up word, a number, or a word of a pool."""
    if sort in ("names", "strangers"):
        if not held_out and rng.random() < MADE_UP_NAMES:
            return capitalized(made_up_word(rng))
        return rng.choice((names if sort == "names" else strangers)(held_out))
    if sort in ("made up", "code"):
        return (code if sort == "code" else made_up_word)(rng, held_out=held_out)
    return rng.choice(pool(sort))


def draw_pairs(
    rng: random.Random, keys: str, values: str, count: int, held_out: bool
) -> dict[str, str]:
    """Different keys, each with a value of its own.

    Names, made-up words and numbers are kept for evaluation one by one; of common words it is the
    pair that is kept.
    """
    common = keys not in ("names", "strangers", "made up", "code")
    found: dict[str, str] = {}
    while len(found) < count:
        key, value = draw_word(rng, keys, held_out), draw_word(rng, values, held_out)
        fresh = key not in found and value not in found.values()
        if fresh and (not common or reserved("pair", key, value) == held_out):
            found[key] = value
    return found


def conversation_of(
    opening: str, questions: Sequence[tuple[str, str, Check]], *, first: bool = False
) -> Task:
    """One text and several questions about it, asked one after the other.

    Args:    questions: question, answer, judge. first: the first question stands before the text.
    """
    messages: list[Message] = []
    for i, (question, answer, _) in enumerate(questions):
        asked = question
        if i == 0:
            asked = f"{question}\n{opening}" if first else f"{opening}\n{question}"
        messages += [
            {"role": "user", "content": asked},
            {"role": "assistant", "content": answer},
        ]
    return Task(messages=tuple(messages[:-1]), answer=messages[-1], judge=questions[-1][2])


def how_many_questions(rng: random.Random, count: int, held_out: bool) -> int:
    """One in the evaluation; in training about as many as there are pairs."""
    most = min(count, MAX_QUESTIONS)
    return 1 if held_out else rng.randint((most + 1) // 2, most)


def pairs(count: int | None = None) -> Generator:
    """A plain list of keys and values: `kavo: 81`; the answer repeats the line or the value.

    Args:    count: number of pairs; None: two to eight, or one for practice.
    """

    def generate(rng: random.Random, *, held_out: bool = False) -> Task:
        n = count or rng.choice((1, 2, 2, 3, 3, 4, 5, 6, 8))
        sorts = ("names", "made up", "made up", "code", "things", "animals", "places")
        sort = rng.choice(sorts)
        other = rng.choice([s for s in (*sorts, "colors", "foods", "jobs") if s != sort])
        drawn = draw_pairs(rng, sort, other, n, held_out)
        layout, joint = rng.choice(LAYOUTS)
        opening = joint.join(layout.format(k=k, v=v) for k, v in drawn.items())
        if rng.random() < 0.1:
            layout, opening = "{k}: {v}", json.dumps(drawn)
        return _asked_about(rng, drawn, layout, opening, held_out)

    return generate


def _asked_about(
    rng: random.Random, drawn: dict[str, str], layout: str, opening: str, held_out: bool
) -> Task:
    """Questions about some of the keys, all in one form."""
    form, whole = rng.choice(PAIR_FORMS)
    questions = []
    for key in rng.sample(list(drawn), how_many_questions(rng, len(drawn), held_out)):
        answer = layout.format(k=key, v=drawn[key]) if whole else drawn[key]
        others = [value for value in drawn.values() if value != drawn[key]]
        questions.append((form.format(key), answer, holds_only(drawn[key], others)))
    return conversation_of(opening, questions)


def facts(count: int | None = None) -> Generator:
    """Sentences about people, one relation for all, asked forwards and backwards."""

    def generate(rng: random.Random, *, held_out: bool = False) -> Task:
        n = count or rng.choice((1, 2, 2, 3, 3, 4, 5, 6, 8))
        relation = rng.choice(RELATIONS)
        sort = "made up" if rng.random() < 0.3 else "names"
        drawn = draw_pairs(rng, sort, relation.values, n, held_out)
        people = {capitalized(k): relation.article * with_article(v) or v for k, v in drawn.items()}
        told = [relation.told.format(k=k, v=v) for k, v in people.items()]
        questions = []
        for key in rng.sample(list(people), how_many_questions(rng, n, held_out)):
            value = people[key]
            answer = relation.answer.format(k=key, v=value)
            if rng.random() < 0.25:
                judge = holds_only(key, [other for other in people if other != key])
                questions.append((relation.asked_back.format(v=value), answer, judge))
            else:
                judge = holds_only(value, [other for other in people.values() if other != value])
                questions.append((relation.asked.format(k=key), answer, judge))
        return conversation_of(" ".join(told), questions)

    return generate


def variables(rng: random.Random, *, held_out: bool = False) -> Task:
    """`x = 12. y = 5. z = x.` What is z? Values are followed through one or two assignments."""
    letters = rng.sample("abcdefghkmnpqrstuvwxyz", rng.randint(2, 6))
    while True:
        values: dict[str, int] = {}
        lines: list[str] = []
        paths: dict[str, str] = {}
        for letter in letters:
            if values and rng.random() < 0.4:
                source = rng.choice(list(values))
                values[letter] = values[source]
                paths[letter] = f"{letter} = {source}. {paths[source]}"
                lines.append(f"{letter} = {source}.")
            else:
                values[letter] = rng.randrange(100)
                paths[letter] = f"{letter} = {values[letter]}."
                lines.append(paths[letter])
        if reserved("variables", *lines) == held_out:
            break
    asked = rng.choice(letters)
    answer = f"{asked} = {values[asked]}."
    judge = holds_only(str(values[asked]), [])
    return ask(f"{' '.join(lines)} What is {asked}?", answer, paths[asked], judge=judge)


RECALL = Family(
    "recall",
    {
        "pairs": (pairs(), 40),
        "2 pairs": (pairs(2), 8),
        "8 pairs": (pairs(8), 6),
        "people": (facts(), 30),
        "3 people": (facts(3), 8),
        "variables, thinking": (variables, 8),
    },
)
