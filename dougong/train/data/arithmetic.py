"""Small arithmetic: sums, differences, products, comparisons, and one-step word problems.

With thinking the sum is worked out by tens and ones; small operands are also answered outright.
One in ten operand pairs is reserved for evaluation.
"""

from __future__ import annotations

import random

from dougong.train.data.sample import Sample, chat, is_reserved

ASK = ("What is {}?", "Calculate {}.", "How much is {}?", "{} = ?", "Please work out {}.", "{}")
NAMES = ("Ben", "Tom", "Max", "Leo", "Sam", "Lily", "Mia", "Anna", "Lucy", "Ella", "Rose")
THINGS = ("apples", "balls", "coins", "books", "shells", "stones", "eggs", "cakes", "flowers")


def addition_thought(a: int, b: int) -> str:
    """`47 + 38`: tens first, then ones, then both together."""
    tens, ones = a // 10 * 10 + b // 10 * 10, a % 10 + b % 10
    return (
        f"{a // 10 * 10} + {b // 10 * 10} = {tens}. {a % 10} + {b % 10} = {ones}. "
        f"{tens} + {ones} = {a + b}."
    )


def subtraction_thought(a: int, b: int) -> str:
    """`83 - 47`: takes away the tens, then the ones."""
    rest = a - b // 10 * 10
    return f"{a} - {b // 10 * 10} = {rest}. {rest} - {b % 10} = {a - b}."


def _operands(rng: random.Random, sign: str, limit: int) -> tuple[int, int]:
    """Two operands below `limit` whose pair is not reserved; never a negative difference."""
    while True:
        a, b = rng.randrange(limit), rng.randrange(limit)
        if sign == "-" and a < b:
            a, b = b, a
        if not is_reserved("sum", a, sign, b):
            return a, b


def sum_or_difference(rng: random.Random) -> Sample:
    """`a + b` or `a - b`: below 100 with thinking, mostly below 20 without."""
    sign = rng.choice("++-")
    thinking = rng.random() < 0.6
    a, b = _operands(rng, sign, 100 if thinking or rng.random() < 0.2 else 20)
    result = a + b if sign == "+" else a - b
    work = addition_thought(a, b) if sign == "+" else subtraction_thought(a, b)
    question = rng.choice(ASK).format(f"{a} {sign} {b}")
    return chat(question, f"{a} {sign} {b} = {result}.", work if thinking else None)


def product(rng: random.Random) -> Sample:
    """The multiplication table up to ten."""
    a, b = rng.randint(0, 10), rng.randint(0, 10)
    return chat(rng.choice(ASK).format(f"{a} x {b}"), f"{a} x {b} = {a * b}.")


def comparison(rng: random.Random) -> Sample:
    """Which of two numbers is larger or smaller."""
    a = rng.randrange(100)
    b = (a + rng.randrange(1, 100)) % 100
    word, pick = rng.choice((("larger", max), ("bigger", max), ("smaller", min)))
    return chat(f"Which is {word}, {a} or {b}?", f"{pick(a, b)} is {word}.")


def word_problem(rng: random.Random) -> Sample:
    """One person, one kind of thing, one step."""
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    sign = rng.choice("+-")
    a, b = 0, 0
    while min(a, b) < 2:
        a, b = _operands(rng, sign, 20)
    result = a + b if sign == "+" else a - b
    change = rng.choice(("gets", "finds", "buys") if sign == "+" else ("gives away", "loses"))
    more = " more" if sign == "+" else " of them"
    question = f"{name} has {a} {thing} and {change} {b}{more}. How many {thing} does {name} have?"
    thing = thing if result != 1 else thing[:-1]
    thought = f"{a} {sign} {b} = {result}." if rng.random() < 0.5 else None
    return chat(question, f"{name} has {result} {thing}.", thought)


def counting(rng: random.Random) -> Sample:
    """Counts from one number to another, up or down."""
    low = rng.randint(0, 20)
    high = low + rng.randint(2, 10)
    numbers = list(range(low, high + 1))
    if rng.random() < 0.25:
        numbers.reverse()
    listed = ", ".join(map(str, numbers))
    return chat(f"Count from {numbers[0]} to {numbers[-1]}.", f"{listed}.")


def arithmetic(rng: random.Random) -> Sample:
    """One task of this family."""
    kinds = (sum_or_difference, product, comparison, word_problem, counting)
    return rng.choices(kinds, (55, 12, 9, 16, 8))[0](rng)
