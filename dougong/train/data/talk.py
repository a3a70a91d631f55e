"""Small talk and identity, from a table of this project (dougong/data/train/talk.toml)."""

from __future__ import annotations

import random

from dougong.train.data.recall import holds_only
from dougong.train.data.task import Check, Family, Message, Task, reserved
from dougong.train.data.words import draw_name, table

TOLD = ("My name is {}.", "I am {}.", "Hi, I am {}.", "Please call me {}.")
ASKED = ("What is my name?", "Do you know my name?", "Who am I?")


def dialogue(turns: list[tuple[str, str]], judge: Check) -> Task:
    """Questions and answers one after the other; the judge looks at the last answer."""
    messages: list[Message] = []
    for question, answer in turns:
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": answer})
    return Task(messages=tuple(messages[:-1]), answer=messages[-1], judge=judge)


def _exchange(rng: random.Random, held_out: bool) -> tuple[str, str, Check]:
    """A pair of the table, in one of its spellings; some ways to ask are kept for evaluation."""
    while True:
        pair = rng.choice(table("talk")["pair"])
        asks = [ask for ask in pair["ask"] if reserved("talk", ask) == held_out]
        if asks:
            break
    question = rng.choice(asks)
    if rng.random() < 0.2:  # people leave out the last mark, or all capitals
        question = question.rstrip(".!?")
    if rng.random() < 0.1:
        question = question.lower()
    answers = pair["answer"]
    return question, rng.choice(answers), lambda completion: completion.content.strip() in answers


def small_talk(rng: random.Random, *, held_out: bool = False) -> Task:
    """A chat of one to three exchanges."""
    count = 1 if held_out else rng.choices((1, 2, 3), (60, 25, 15))[0]
    exchanges = [_exchange(rng, held_out) for _ in range(count)]
    return dialogue([exchange[:2] for exchange in exchanges], exchanges[-1][2])


def name_asked_back(rng: random.Random, *, held_out: bool = False) -> Task:
    """The user tells a name and asks for it later."""
    name = draw_name(rng, held_out=held_out)
    turns = [(rng.choice(TOLD).format(name), f"Nice to meet you, {name}!")]
    for _ in range(rng.choice((0, 0, 1, 2))):
        turns.append(_exchange(rng, False)[:2])
    turns.append((rng.choice(ASKED), f"Your name is {name}."))
    return dialogue(turns, holds_only(name, []))


TALK = Family("talk", {"small talk": (small_talk, 85), "name asked back": (name_asked_back, 15)})
