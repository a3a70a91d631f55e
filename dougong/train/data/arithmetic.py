"""Arithmetic: sums, differences, products, comparisons, sums of lists, counting.

With thinking a number is worked out by columns, ones first, carries written down, as on paper: each
step then needs single digits only, which is what a small model can learn. Small operands are also
answered outright. Pairs of operands are kept out of training by `is_kept`.
"""

from __future__ import annotations

import random
import re

from dougong.chat.completion import Completion
from dougong.train.data.task import Check, Family, Generator, Task, ask, reserved

ASK = ("What is {}?", "Calculate {}.", "How much is {}?", "{} = ?", "Please work out {}.", "{}")
NUMBER = re.compile(r"-?\d+")


def is_kept(a: int, sign: str, b: int) -> bool:
    """Whether evaluation alone asks `a sign b`.

    The order does not matter where it does not matter for the result. Two single digits are never
    kept: the columns of longer numbers need the whole table.
    """
    if sign in "+x":
        a, b = min(a, b), max(a, b)
    return max(a, b) >= 10 and reserved("operands", a, sign, b)


def concludes(result: int) -> Check:
    """The judge that wants `result` as the answer's last number."""

    def judge(completion: Completion) -> bool:
        found = NUMBER.findall(completion.content)
        return bool(found) and int(found[-1]) == result

    return judge


def addition_thought(a: int, b: int) -> str:
    """`47 + 38`: `7 + 8 = 15, 5 carry 1. 4 + 3 + 1 = 8. 47 + 38 = 85.`"""
    return f"{' '.join(_columns_added(a, b))} {a} + {b} = {a + b}."


def _columns_added(a: int, b: int) -> list[str]:
    lines: list[str] = []
    carry, x, y = 0, a, b
    while x or y or not lines:
        total = x % 10 + y % 10 + carry
        step = f"{x % 10} + {y % 10}" + (" + 1" if carry else "") + f" = {total}"
        x, y, carry = x // 10, y // 10, total // 10
        lines.append(f"{step}, {total % 10} carry 1." if carry and (x or y) else f"{step}.")
    return lines


def subtraction_thought(a: int, b: int) -> str:
    """`83 - 47`: `13 - 7 = 6, borrow 1. 8 - 4 - 1 = 3. 83 - 47 = 36.`; `a` not below `b`."""
    lines: list[str] = []
    borrow, x, y = 0, a, b
    while x or y or not lines:
        top, low = x % 10, y % 10 + borrow
        take = f" - {y % 10}" + (" - 1" if borrow else "")
        borrow = int(top < low)
        top += 10 * borrow
        lines.append(f"{top}{take} = {top - low}" + (", borrow 1." if borrow else "."))
        x, y = x // 10, y // 10
    return f"{' '.join(lines)} {a} - {b} = {a - b}."


def product_thought(a: int, b: int) -> str:
    """`34 x 6`: `30 x 6 = 180. 4 x 6 = 24. 180 + 24 = 204.`; `b` is one digit."""
    tens, ones = a // 10 * 10, a % 10
    return (
        f"{tens} x {b} = {tens * b}. {ones} x {b} = {ones * b}. {tens * b} + {ones * b} = {a * b}."
    )


THOUGHTS = {"+": addition_thought, "-": subtraction_thought, "x": product_thought}
RESULTS = {"+": int.__add__, "-": int.__sub__, "x": int.__mul__}


def operands(
    rng: random.Random, sign: str, low: int, high: int, held_out: bool = False
) -> tuple[int, int]:
    """Two numbers from `low` to below `high` for a training or an evaluation question.

    A difference is never negative. Short numbers are as frequent as long ones.
    """
    while True:
        a, b = (rng.randrange(low, rng.choice((high, max(high // 5, low + 2)))) for _ in "ab")
        if sign == "-" and a < b:
            a, b = b, a
        if is_kept(a, sign, b) == held_out:
            return a, b


def calculation(sign: str, low: int, high: int, *, thinking: bool) -> Generator:
    """The generator of `a sign b` with operands in this range."""

    def generate(rng: random.Random, *, held_out: bool = False) -> Task:
        a, b = operands(rng, sign, low, high, held_out)
        return calculate(rng, a, sign, b, thinking=thinking)

    return generate


def calculate(rng: random.Random, a: int, sign: str, b: int, *, thinking: bool) -> Task:
    """The task `a sign b`, worked out in thought or answered outright."""
    result = RESULTS[sign](a, b)
    return ask(
        rng.choice(ASK).format(f"{a} {sign} {b}"),
        f"{a} {sign} {b} = {result}.",
        THOUGHTS[sign](a, b) if thinking else None,
        judge=concludes(result),
    )


def times_table(rng: random.Random, *, held_out: bool = False) -> Task:
    """The multiplication table up to ten; nothing of it is kept out of training."""
    return calculate(rng, rng.randint(0, 10), "x", rng.randint(0, 10), thinking=False)


def long_product(rng: random.Random, *, held_out: bool = False) -> Task:
    """Two digits by one, with thinking."""
    while True:
        a, b = rng.randint(11, 99), rng.randint(2, 9)
        if is_kept(a, "x", b) == held_out:
            return calculate(rng, a, "x", b, thinking=True)


def comparison(rng: random.Random, *, held_out: bool = False) -> Task:
    """Which of two numbers is larger or smaller."""
    while True:
        limit = rng.choice((100, 1000))
        a, b = rng.randrange(limit), rng.randrange(limit)
        if a != b and reserved("compare", a, b) == held_out:
            break
    word, pick = rng.choice((("larger", max), ("bigger", max), ("smaller", min)))
    answer = f"{pick(a, b)} is {word}."
    return ask(f"Which is {word}, {a} or {b}?", answer, judge=concludes(pick(a, b)))


def list_sum(rng: random.Random, *, held_out: bool = False) -> Task:
    """Three to five numbers added up one by one."""
    while True:
        numbers = [rng.randint(1, 30) for _ in range(rng.randint(3, 5))]
        if reserved("list", *numbers) == held_out:
            break
    steps, total = [], numbers[0]
    for number in numbers[1:]:
        steps.append(f"{total} + {number} = {total + number}.")
        total += number
    asked = rng.choice((" + ".join(map(str, numbers)), ", ".join(map(str, numbers))))
    form = "What is {}?" if "+" in asked else "Add up these numbers: {}"
    return ask(form.format(asked), f"The sum is {total}.", " ".join(steps), judge=concludes(total))


def extreme(rng: random.Random, *, held_out: bool = False) -> Task:
    """The largest or smallest of a list."""
    while True:
        numbers = rng.sample(range(2, 100), rng.randint(3, 6))
        if reserved("list", *numbers) == held_out:
            break
    word, pick = rng.choice((("largest", max), ("biggest", max), ("smallest", min)))
    listing = ", ".join(map(str, numbers))
    question = f"Which number is the {word}: {listing}?"
    answer = f"The {word} number is {pick(numbers)}."
    return ask(question, answer, judge=concludes(pick(numbers)))


def counting(rng: random.Random, *, held_out: bool = False) -> Task:
    """Counts from one number to another, up, down or in steps."""
    while True:
        step = rng.choice((1, 1, 1, 2, 5, 10))
        low = rng.randint(0, 40) * (step if step > 2 else 1)
        numbers = [low + step * i for i in range(rng.randint(3, 11))]
        if reserved("count", numbers[0], numbers[-1], step) == held_out:
            break
    if rng.random() < 0.25:
        numbers.reverse()
    by = f" in steps of {step}" if step > 1 else ""
    listing = ", ".join(map(str, numbers))
    return ask(f"Count from {numbers[0]} to {numbers[-1]}{by}.", f"{listing}.")


def parity(rng: random.Random, *, held_out: bool = False) -> Task:
    """Even or odd."""
    while True:
        number = rng.randrange(1000)
        if reserved("parity", number) == held_out:
            break
    word = "odd" if number % 2 else "even"
    return ask(f"Is {number} even or odd?", f"{number} is {word}.")


ARITHMETIC = Family(
    "arithmetic",
    {
        "small sums": (calculation("+", 0, 20, thinking=False), 10),
        "small differences": (calculation("-", 0, 20, thinking=False), 8),
        "two-digit sums": (calculation("+", 0, 100, thinking=False), 4),
        "two-digit sums, thinking": (calculation("+", 0, 100, thinking=True), 12),
        "two-digit differences, thinking": (calculation("-", 0, 100, thinking=True), 10),
        "three-digit sums, thinking": (calculation("+", 10, 1000, thinking=True), 14),
        "three-digit differences, thinking": (calculation("-", 10, 1000, thinking=True), 8),
        "times table": (times_table, 7),
        "two digits by one, thinking": (long_product, 6),
        "comparison": (comparison, 6),
        "sum of a list, thinking": (list_sum, 5),
        "largest of a list": (extreme, 5),
        "counting": (counting, 4),
        "even or odd": (parity, 3),
    },
)
