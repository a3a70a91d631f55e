"""Following instructions: form, number and length of an answer, standing orders, not knowing."""

from __future__ import annotations

import random

from dougong.chat.completion import Completion
from dougong.train.data.facts import FACTS, neighbours
from dougong.train.data.recall import holds_only
from dougong.train.data.stories import story_names
from dougong.train.data.task import Check, Family, Task, ask, part_of, reserved
from dougong.train.data.words import (
    CARDINALS,
    capitalized,
    draw_names,
    made_up_word,
    plural,
    pool,
    table,
    with_article,
)

DOES = ("saw", "found", "wanted", "had", "liked", "lost", "carried", "hid")


def simple_sentence(rng: random.Random, thing: str | None = None) -> str:
    """`The small fox found a red key.`"""
    words = table("stories")
    thing = thing or rng.choice(list(words["objects"]))
    color = rng.choice(pool("colors"))
    who = rng.choice((f"The {rng.choice(words['traits'])} {rng.choice(words['animals'])}",
                      rng.choice(story_names("boy")), rng.choice(story_names("girl"))))  # fmt: skip
    return f"{who} {rng.choice(DOES)} {with_article(f'{color} {thing}')}."


def letter_case(rng: random.Random, *, held_out: bool = False) -> Task:
    """A sentence in capital or small letters."""
    while True:
        sentence = simple_sentence(rng)
        if reserved("sentence", sentence) == held_out:
            break
    if rng.random() < 0.6:
        form = rng.choice(("Write this in capital letters: {}", "Put this in upper case: {}"))
        return ask(form.format(sentence), sentence.upper())
    form = rng.choice(("Write this in small letters: {}", "Put this in lower case: {}"))
    return ask(form.format(sentence), sentence.lower())


def sentence_with(rng: random.Random, *, held_out: bool = False) -> Task:
    """One sentence in which a given word occurs."""
    thing = rng.choice(part_of("sentence with", pool("things"), held_out))
    form = rng.choice((
        "Write a sentence with the word {}.", "Use the word {} in a sentence.",
        "Make a sentence with {}.",
    ))  # fmt: skip

    def judge(completion: Completion) -> bool:
        text = completion.content.strip()
        return thing in text.lower().rstrip(".!?").split() and text.count(".") == 1

    return ask(form.format(thing), simple_sentence(rng, thing), judge=judge)


def category_items(rng: random.Random, held_out: bool) -> tuple[str, list[str]]:
    """A category and two to five of its members."""
    categories: dict[str, list[str]] = table("facts")["categories"]
    while True:
        category, count = rng.choice(list(categories)), rng.randint(2, 5)
        if reserved("items", category, count) == held_out:
            return category, neighbours(rng, categories[category], count)


def list_form(rng: random.Random, *, held_out: bool = False) -> Task:
    """So many members of a category, as a numbered list, as bullets, or with commas."""
    category, items = category_items(rng, held_out)
    members = {member.lower() for member in table("facts")["categories"][category]}
    many = f"{CARDINALS[len(items)]} {plural(category)}"
    style = rng.choice(("numbers", "bullets", "commas"))
    shown = [f"{i + 1}. {item}" if style == "numbers" else f"- {item}"
             for i, item in enumerate(items)]  # fmt: skip
    question, answer = {
        "numbers": (f"Write a numbered list of {many}.", "\n".join(shown)),
        "bullets": (f"Write {many} as a list with bullets.", "\n".join(shown)),
        "commas": (f"Write {many}, separated by commas.", ", ".join(items)),
    }[style]

    def judge(completion: Completion) -> bool:
        text = completion.content.strip()
        lines = text.split(", ") if style == "commas" else text.split("\n")
        marks = {"numbers": [f"{i + 1}. " for i in range(len(lines))], "bullets": ["- "] * 9,
                 "commas": [""] * 9}[style]  # fmt: skip
        if len(lines) != len(items) or not all(map(str.startswith, lines, marks)):
            return False
        found = {line.removeprefix(mark).lower() for line, mark in zip(lines, marks, strict=False)}
        return len(found) == len(items) and found <= members

    return ask(question, answer, judge=judge)


def begins_with(rng: random.Random, *, held_out: bool = False) -> Task:
    """A word, an animal or a name that begins with a letter."""
    kind, words = rng.choice((
        ("an animal", pool("animals")), ("a thing", pool("things")), ("a color", pool("colors")),
    ))  # fmt: skip
    letters = sorted({word[0] for word in words})
    letter = rng.choice(part_of(f"begins {kind}", letters, held_out) or letters)
    found = rng.choice([word for word in words if word[0] == letter])
    members = [word for word in words if word[0] == letter]
    question = f"Name {kind} that begins with {letter.upper()}."

    def judge(completion: Completion) -> bool:
        return completion.content.strip().rstrip(".").lower() in members

    return ask(question, f"{capitalized(found)}.", judge=judge)


def first_letter(rng: random.Random, *, held_out: bool = False) -> Task:
    """The first letter of a word, or the word letter by letter."""
    words = part_of("spelling", (*pool("animals"), *pool("things")), held_out)
    word = rng.choice(words)
    if rng.random() < 0.5:
        answer = f"{capitalized(word)} begins with {word[0].upper()}."
        judge = holds_only(word[0].upper(), [])
        return ask(f"What is the first letter of {word}?", answer, judge=judge)
    return ask(f"Spell the word {word}.", "-".join(word.upper()))


def one_word(rng: random.Random, *, held_out: bool = False) -> Task:
    """A simple fact in a single word."""
    name = rng.choice(("opposites", "colors_of", "pasts", "plurals"))
    rows: dict[str, str] = table("facts")[name]
    key = rng.choice(part_of(f"one word {name}", list(rows), held_out) or list(rows))
    question = {
        "opposites": f"what is the opposite of {key}?", "colors_of": f"what color is {key}?",
        "pasts": f"what is the past of {key}?", "plurals": f"what is the plural of {key}?",
    }[name]  # fmt: skip
    if rng.random() < 0.5:
        return ask(f"Answer in one word: {question}", capitalized(rows[key]) + ".")
    order = rng.choice(("Answer in one word.", "Always answer with a single word."))
    return ask(capitalized(question), capitalized(rows[key]) + ".", system=order)


def yes_or_no(rng: random.Random, *, held_out: bool = False) -> Task:
    """A question about a kind of thing, answered by yes or no alone."""
    task = FACTS.draw("is it a kind of", rng, held_out=held_out)
    answer = task.answer["content"].split(",")[0]
    question = f"Answer only yes or no. {task.messages[-1]['content']}"
    return ask(question, f"{answer}.")


def ends_with(mark: str) -> Check:
    """The judge that wants an answer that ends so."""
    return lambda completion: completion.content.strip().endswith(mark)


def standing_order(rng: random.Random, *, held_out: bool = False) -> Task:
    """A system message says how every answer ends, begins or is written."""
    task = FACTS(rng, held_out=held_out)
    question, answer = task.messages[-1]["content"], task.answer["content"]
    word = capitalized(made_up_word(rng, held_out=held_out))
    which = rng.choices((0, 1, 2), (45, 45, 10))[0]
    if which == 0:
        order = rng.choice((f'End every answer with "{word}".', f"Always end with {word}."))
        return ask(question, f"{answer} {word}", system=order, judge=ends_with(word))
    if which == 1:
        order = rng.choice((f'Begin every answer with "{word}".', f"Always begin with {word}."))

        def begins(completion: Completion) -> bool:
            return completion.content.strip().startswith(word)

        return ask(question, f"{word}! {answer}", system=order, judge=begins)
    order = rng.choice(("Write everything in capital letters.", "Always answer in upper case."))
    return ask(question, answer.upper(), system=order)


def not_known(rng: random.Random, *, held_out: bool = False) -> Task:
    """Questions about made-up people, words and places: the answer is not to know."""
    name = capitalized(made_up_word(rng, held_out=held_out))
    word = made_up_word(rng, held_out=held_out)
    person = draw_names(rng, 1, held_out=held_out)[0]
    question, answer = rng.choice((
        (f"Who is {name}?", f"I do not know who {name} is."),
        (f"Who is {person} {name}?", f"I do not know who {person} {name} is."),
        (f"What is the capital of {name}?", f"I do not know {name}."),
        (f"What does {word} mean?", f"I do not know the word {word}."),
        (f"What is {with_article(word)}?", f"I do not know the word {word}."),
        (f"How old is {person}?", f"I do not know how old {person} is."),
        (f"Where does {person} live?", f"I do not know where {person} lives."),
    ))  # fmt: skip
    return ask(question, answer, judge=holds_only("I do not know", []))


INSTRUCTIONS = Family(
    "instructions",
    {
        "capital and small letters": (letter_case, 16),
        "sentence with a word": (sentence_with, 16),
        "list in a given form": (list_form, 16),
        "begins with a letter": (begins_with, 8),
        "letters of a word": (first_letter, 4),
        "answer in one word": (one_word, 10),
        "only yes or no": (yes_or_no, 8),
        "standing order": (standing_order, 12),
        "says that it does not know": (not_known, 12),
    },
)
