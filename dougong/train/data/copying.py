"""Copying and lists: repeat a text, turn a list around, sort it, name what comes after what."""

from __future__ import annotations

import random
from collections.abc import Callable

from dougong.train.data.recall import conversation_of, holds_only
from dougong.train.data.task import Check, Family, Task, ask, part_of, reserved, says
from dougong.train.data.words import (
    CARDINALS,
    ORDINALS,
    capitalized,
    code,
    draw_names,
    made_up_word,
    pool,
)

COPY = ("Repeat after me: {}", "Say: {}", "Please repeat: {}", "Copy this: {}", "Copy: {}",
        "Write exactly this: {}", "Repeat this text.\n{}")  # fmt: skip


def mixed_words(rng: random.Random, count: int, held_out: bool = False) -> list[str]:
    """Words of one or several sorts: common ones, names, made-up ones, numbers."""
    draws: tuple[Callable[[], str], ...] = (
        lambda: rng.choice(pool("things")),
        lambda: rng.choice(pool("animals")),
        lambda: rng.choice(pool("colors")),
        lambda: draw_names(rng, 1, held_out=held_out)[0],
        lambda: made_up_word(rng, held_out=held_out),
        lambda: code(rng, held_out=held_out),
    )
    chosen = draws if rng.random() < 0.5 else (rng.choice(draws),)
    return [rng.choice(chosen)() for _ in range(count)]


def distinct_words(rng: random.Random, count: int, held_out: bool = False) -> list[str]:
    """Different words whose sequence belongs to the right side of the evaluation."""
    while True:
        words = list(dict.fromkeys(mixed_words(rng, count, held_out)))
        if len(words) == count and reserved("list", *words) == held_out:
            return words


def copy(rng: random.Random, *, held_out: bool = False) -> Task:
    """A row of words, letter for letter."""
    words = distinct_words(rng, rng.choice((1, 2, 3, 4, 6, 8, 12)), held_out)
    text = rng.choice((" ", " ", ", ")).join(words)
    return ask(rng.choice(COPY).format(text), text)


def say_again(rng: random.Random, *, held_out: bool = False) -> Task:
    """One word several times."""
    words = part_of("again", (*pool("things"), *pool("animals")), held_out)
    word, count = rng.choice(words), rng.randint(2, 6)
    form = rng.choice(('Say "{}" {} times.', "Say {} {} times.", "Write the word {} {} times."))
    return ask(form.format(word, CARDINALS[count]), " ".join([word] * count))


def repeat_line(rng: random.Random, *, held_out: bool = False) -> Task:
    """A row of words several times: many tokens that can only be known by looking back."""
    words = distinct_words(rng, rng.choice((2, 3, 4, 6, 8)), held_out)
    text, count = " ".join(words), rng.randint(2, 5)
    form = rng.choice(("Write this {n} times: {t}", "Repeat this {n} times: {t}",
                       "{t}\nWrite this line {n} times."))  # fmt: skip
    return ask(form.format(n=CARDINALS[count], t=text), "\n".join([text] * count))


def reverse(rng: random.Random, *, held_out: bool = False) -> Task:
    """A list from its end to its beginning."""
    words = distinct_words(rng, rng.randint(2, 7), held_out)
    form = rng.choice(("Write this list backwards: {}", "Turn this list around: {}"))
    return ask(form.format(", ".join(words)), ", ".join(reversed(words)))


def sort_list(rng: random.Random, *, held_out: bool = False) -> Task:
    """Numbers by size, or words by their first letter."""
    while True:
        if rng.random() < 0.5:
            items: list[int] = rng.sample(range(1, 100), rng.randint(3, 6))
            line, answer = ", ".join(map(str, items)), ", ".join(map(str, sorted(items)))
            question = f"Sort these numbers: {line}"
        else:
            by_letter = {word[0]: word for word in rng.sample(pool("animals"), 6)}
            words = rng.sample(list(by_letter.values()), min(4, len(by_letter)))
            line, answer = ", ".join(words), ", ".join(sorted(words))
            question = f"Sort these words from A to Z: {line}"
        if reserved("sort", line) == held_out:
            return ask(question, answer)


def positions(rng: random.Random, *, held_out: bool = False) -> Task:
    """The n-th or last word, the word after or before another one; several questions."""
    words = distinct_words(rng, rng.randint(3, 8), held_out)
    questions: list[tuple[str, str, Check]] = []
    for _ in range(1 if held_out else rng.randint(1, 4)):
        i = rng.randrange(len(words) - 1)
        asked, found = rng.choice((
            (f"What is the {ORDINALS[i]} word?", words[i]),
            ("What is the last word?", words[-1]),
            (f"Which word comes after {words[i]}?", words[i + 1]),
            (f"Which word comes after {words[i]}?", words[i + 1]),
            (f"Which word comes before {words[i + 1]}?", words[i]),
        ))  # fmt: skip
        others = [word for word in words if word != found and word not in asked]
        questions.append((asked, f"{capitalized(found)}.", holds_only(found, others)))
    return conversation_of(f"Here is a list: {', '.join(words)}.", questions)


def next_line(rng: random.Random, *, held_out: bool = False) -> Task:
    """Numbered lines; what stands in one of them, or which line follows."""
    while True:
        lines = [" ".join(mixed_words(rng, 3, held_out)) for _ in range(rng.randint(2, 6))]
        if len(set(lines)) == len(lines) and reserved("lines", *lines) == held_out:
            break
    shown = "\n".join(f"{i + 1}. {line}" for i, line in enumerate(lines))
    questions: list[tuple[str, str, Check]] = []
    for _ in range(1 if held_out else rng.randint(1, 3)):
        i = rng.randrange(len(lines) - 1)
        asked, found = rng.choice((
            (f"Copy line {i + 1}.", lines[i]),
            (f'Which line comes after "{lines[i]}"?', lines[i + 1]),
        ))  # fmt: skip
        questions.append((asked, found, says(found)))
    return conversation_of(shown, questions)


def membership(rng: random.Random, *, held_out: bool = False) -> Task:
    """Whether a word stands in a list."""
    words = distinct_words(rng, rng.randint(3, 8), held_out)
    inside = rng.random() < 0.5
    if inside:
        word = rng.choice(words)
    else:
        fresh = (mixed_words(rng, 1, held_out)[0] for _ in range(100))
        word = next(found for found in fresh if found not in words)
    answer = f"Yes, {word} is in the list." if inside else f"No, {word} is not in the list."

    question = f"Here is a list: {', '.join(words)}. Is {word} in the list?"
    judge = holds_only("yes" if inside else "no", ["no" if inside else "yes"])
    return ask(question, answer, judge=judge)


COPYING = Family(
    "copying",
    {
        "copy a text": (copy, 30),
        "copy a text n times": (repeat_line, 24),
        "say a word n times": (say_again, 6),
        "a list backwards": (reverse, 12),
        "sort a list": (sort_list, 8),
        "n-th, after, before": (positions, 20),
        "numbered lines": (next_line, 10),
        "is it in the list": (membership, 6),
    },
)
