"""Word problems of one to three steps from templates; the thought is the running result."""

from __future__ import annotations

import random
from typing import Any

from dougong.train.data.arithmetic import RESULTS, concludes, is_kept
from dougong.train.data.task import Family, Task, ask, reserved
from dougong.train.data.words import capitalized, draw_names, plural, table, with_article

COUNTED = ("apple", "ball", "coin", "book", "shell", "stone", "egg", "cake", "flower", "pencil",
           "card", "button", "cookie", "star", "stamp", "nut", "feather", "balloon", "pear",
           "ticket", "leaf", "key", "candle", "box")  # fmt: skip


EASY = 12  # problems with larger numbers are always thought about


def work_out(steps: list[str], numbers: dict[str, int]) -> tuple[list[str], int]:
    """The steps, such as `["a + b", "= - c"]`, as equations, and the last result."""
    equations, result = [], 0
    for step in steps:
        left, sign, right = step.split()
        x = result if left == "=" else numbers[left]
        y = numbers[right] if right in numbers else int(right)
        result = RESULTS[sign](x, y)
        equations.append(f"{x} {sign} {y} = {result}.")
    return equations, result


def _numbers(
    rng: random.Random, problem: dict[str, Any], held_out: bool
) -> tuple[dict[str, int], list[str], int]:
    """Numbers whose first step is on the right side of the evaluation; results are positive."""
    low, high = problem.get("low", 2), problem.get("high", rng.choice((EASY, 20, 50)))
    while True:
        numbers = {letter: rng.randint(low, high) for letter in "abc"}
        numbers["d"] = rng.randint(2, 9)
        equations, _ = work_out(problem["steps"], numbers)
        results = [int(equation.rstrip(".").rsplit(" ", 1)[1]) for equation in equations]
        if min(results) > 1:
            x, sign, y = equations[0].split()[:3]
            used = [numbers[letter] for letter in "abcd"]
            kept = is_kept(int(x), sign, int(y)) or reserved("problem", problem["ask"], *used)
            if kept == held_out:
                return numbers, equations, results[-1]


def word_problem(rng: random.Random, *, held_out: bool = False) -> Task:
    """A problem with one to three numbers; two of three are thought about first."""
    problem = rng.choice(table("problems")["problem"])
    numbers, equations, result = _numbers(rng, problem, held_out)
    name, other = draw_names(rng, 2, held_out=held_out)
    thing = rng.choice(COUNTED)
    words = {"name": name, "other": other, "thing": thing, "things": plural(thing)}
    words |= {"a_thing": with_article(thing), "A_thing": capitalized(with_article(thing))}
    question = problem["ask"].format_map(numbers | words)
    answer = problem["answer"].format_map(words | {"r": result})
    small = len(equations) == 1 and max(numbers.values()) <= EASY
    thinks = not small or rng.random() < 0.5
    thought = " ".join(equations) if thinks else None
    return ask(question, answer, thought, judge=concludes(result))


def _with(thinking: bool, rng: random.Random, held_out: bool) -> Task:
    while True:
        task = word_problem(rng, held_out=held_out)
        if task.thinking == thinking:
            return task


def thought_problem(rng: random.Random, *, held_out: bool = False) -> Task:
    """A word problem with thinking."""
    return _with(True, rng, held_out)


def plain_problem(rng: random.Random, *, held_out: bool = False) -> Task:
    """A word problem of one step, answered outright."""
    return _with(False, rng, held_out)


PROBLEMS = Family(
    "problems",
    {
        "word problems, thinking": (thought_problem, 75),
        "word problems": (plain_problem, 25),
    },
)
