"""Simple Chinese from templates, so that CJK bytes are trained: greetings, numbers, words."""

from __future__ import annotations

import random
from typing import Any

from dougong.train.data.arithmetic import RESULTS, concludes, is_kept
from dougong.train.data.recall import holds_only
from dougong.train.data.task import Family, Task, ask, part_of, reserved
from dougong.train.data.words import table


def _words() -> dict[str, Any]:
    return table("chinese")


def numeral(number: int) -> str:
    """Chinese numerals from 0 to 99: `二十五`."""
    digits = _words()["digits"]
    if number <= 10:
        return str(digits[number])
    tens, ones = divmod(number, 10)
    return (digits[tens] if tens > 1 else "") + "十" + (digits[ones] if ones else "")


def greeting(rng: random.Random, *, held_out: bool = False) -> Task:
    """A greeting or a question about the model."""
    pair = rng.choice(_words()["pair"])
    answers = pair["answer"]
    asked = rng.choice(part_of("zh", pair["ask"], held_out) or pair["ask"])
    return ask(asked, rng.choice(answers), judge=lambda c: c.content.strip() in answers)


def calculation(rng: random.Random, *, held_out: bool = False) -> Task:
    """A small sum in digits or in numerals."""
    while True:
        sign, a, b = rng.choice("+-"), rng.randrange(20), rng.randrange(20)
        if (sign == "+" or a >= b) and is_kept(a, sign, b) == held_out:
            break
    result = RESULTS[sign](a, b)
    if rng.random() < 0.5:
        question = rng.choice((f"{a} {sign} {b} 等于多少？", f"{a} {sign} {b} 等于几？"))
        return ask(question, f"{a} {sign} {b} = {result}。", judge=concludes(result))
    sum_told = f"{numeral(a)}{'加' if sign == '+' else '减'}{numeral(b)}"
    return ask(f"{sum_told}等于多少？", f"{sum_told}等于{numeral(result)}。")


def counting(rng: random.Random, *, held_out: bool = False) -> Task:
    """From one numeral to another."""
    while True:
        low = rng.randrange(1, 30)
        high = low + rng.randint(2, 9)
        if reserved("zh count", low, high) == held_out:
            break
    numbers = "，".join(numeral(number) for number in range(low, high + 1))
    return ask(f"从{numeral(low)}数到{numeral(high)}。", f"{numbers}。")


def translation(rng: random.Random, *, held_out: bool = False) -> Task:
    """A word from or into English."""
    cases = [(key, back) for key in _words()["words"] for back in (False, True)]
    key, back = rng.choice(part_of("zh word", cases, held_out))
    word = _words()["words"][key]
    if back:
        return ask(
            f"“{word}”用英语怎么说？", f"“{word}”用英语说 {key}。", judge=holds_only(key, [])
        )
    question = rng.choice((f"{key} 用中文怎么说？", f"How do you say {key} in Chinese?"))
    return ask(question, f"{key} 用中文说“{word}”。", judge=lambda c: word in c.content)


def opposite(rng: random.Random, *, held_out: bool = False) -> Task:
    """The opposite of an adjective."""
    rows: dict[str, str] = _words()["opposites"]
    pairs = [*rows.items(), *((value, key) for key, value in rows.items())]
    word, found = rng.choice(pairs)
    return ask(f"“{word}”的反义词是什么？", f"“{word}”的反义词是“{found}”。")


def who_has(rng: random.Random, *, held_out: bool = False) -> Task:
    """Who has how many of what; one is asked for."""
    words = _words()
    while True:
        count = rng.randint(1, 3)
        people, things = rng.sample(words["names"], count), rng.sample(words["things"], count)
        told = [
            f"{name}有{numeral(rng.randint(1, 10))}{words['measures'][thing]}{thing}"
            for name, thing in zip(people, things, strict=True)
        ]
        if reserved("zh has", *told) == held_out:
            break
    i = rng.randrange(count)
    return ask(f"{'，'.join(told)}。{people[i]}有什么？", f"{told[i]}。")


CHINESE = Family(
    "chinese",
    {
        "greeting in Chinese": (greeting, 25),
        "sum in Chinese": (calculation, 20),
        "counting in Chinese": (counting, 15),
        "word in Chinese": (translation, 15),
        "opposite in Chinese": (opposite, 8),
        "who has what in Chinese": (who_has, 17),
    },
)
