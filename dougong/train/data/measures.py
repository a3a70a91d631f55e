"""Units and tables: conversions worked out, and values read from a table in the question.

Tables name made-up chips, so that they must be read; nothing of them can be known by heart.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from dougong.train.data.arithmetic import concludes
from dougong.train.data.recall import conversation_of, holds_only
from dougong.train.data.task import Check, Family, Task, ask, part_of, reserved
from dougong.train.data.words import capitalized, different, made_up_word, names, pool

FACTORS = (
    ("kilometers", "meters", 1000), ("meters", "centimeters", 100),
    ("kilograms", "grams", 1000), ("liters", "milliliters", 1000), ("hours", "minutes", 60),
    ("minutes", "seconds", 60), ("days", "hours", 24), ("weeks", "days", 7),
    ("centimeters", "millimeters", 10), ("years", "months", 12),
    ("feet", "inches", 12), ("dozens", "pieces", 12), ("TFLOP/s", "GFLOP/s", 1000),
    ("GB", "MB", 1000), ("GiB", "MiB", 1024), ("bytes", "bits", 8),
)  # fmt: skip


def conversion(rng: random.Random, *, held_out: bool = False) -> Task:
    """A number in a smaller unit, or back in the larger one."""
    while True:
        large, small, factor = rng.choice(FACTORS)
        count = rng.randint(2, 20 if factor not in (24, 60, 1024) else 9)
        back = rng.random() < 0.3
        if reserved("convert", large, count, back) == held_out:
            break
    one = f"1 {large.removesuffix('s') if large[0].islower() and large != 'feet' else large}"
    one = "1 foot" if large == "feet" else one
    if back:
        question = f"How many {large} are {count * factor} {small}?"
        thought = f"{one} = {factor} {small}. {count * factor} / {factor} = {count}."
        answer, result = f"{count * factor} {small} are {count} {large}.", count
    else:
        question = f"How many {small} are {count} {large}?"
        thought = f"{one} = {factor} {small}. {count} x {factor} = {count * factor}."
        answer, result = f"{count} {large} are {count * factor} {small}.", count * factor
    judge = holds_only(str(result), []) if back else concludes(result)
    return ask(question, answer, thought, judge=judge)


def temperature(rng: random.Random, *, held_out: bool = False) -> Task:
    """Celsius to Fahrenheit, in steps of five degrees."""
    celsius = rng.choice(part_of("celsius", range(0, 105, 5), held_out))
    scaled = celsius * 9 // 5
    thought = f"{celsius} x 9 / 5 = {scaled}. {scaled} + 32 = {scaled + 32}."
    answer = f"{celsius} degrees Celsius are {scaled + 32} degrees Fahrenheit."
    question = f"What is {celsius} degrees Celsius in Fahrenheit?"
    return ask(question, answer, thought, judge=concludes(scaled + 32))


@dataclass(frozen=True)
class Column:
    """A column: its title, how a cell is asked for and told, and the cells to draw from."""

    title: str
    noun: str
    unit: str
    values: tuple[int, ...]


CHIP = (
    Column("memory (GB)", "memory", " GB", (16, 24, 32, 40, 48, 64, 80, 96, 128, 141, 192, 288)),
    Column("bandwidth (GB/s)", "bandwidth", " GB/s", (400, 600, 900, 1200, 1600, 2000, 3350, 4000)),
    Column("peak (TFLOP/s)", "peak", " TFLOP/s", (40, 90, 120, 280, 312, 400, 640, 800, 990, 1300)),
)
SHOP = (
    Column("price", "price", " coins", tuple(range(2, 60))),
    Column("number", "number", "", tuple(range(3, 90))),
)
SCHOOL = (
    Column("age", "age", " years", tuple(range(5, 40))),
    Column("points", "score", " points", tuple(range(10, 99))),
)


def _sheet(rng: random.Random, held_out: bool) -> tuple[list[str], list[Column], list[list[int]]]:
    """Names of rows, columns, and cells; no column holds a value twice."""
    columns = rng.choice((CHIP, CHIP, SHOP, SCHOOL))
    count = rng.randint(2, 4)
    if columns is CHIP:
        made = different(made_up_word, rng, count, held_out=held_out)
        rows = [f"{capitalized(word)[:6]}-{rng.randint(1, 9)}" for word in made]
    else:
        rows = rng.sample(pool("things") if columns is SHOP else names(held_out), count)
    shown = rng.sample(columns, rng.randint(1, len(columns)))
    drawn = [rng.sample(column.values, count) for column in shown]
    return rows, shown, [list(cells) for cells in zip(*drawn, strict=True)]


def _as_table(rows: list[str], columns: list[Column], cells: list[list[int]]) -> str:
    lines = ["| name | " + " | ".join(column.title for column in columns) + " |"]
    lines.append("|" + "---|" * (len(columns) + 1))
    for row, values in zip(rows, cells, strict=True):
        lines.append(f"| {row} | " + " | ".join(map(str, values)) + " |")
    return "\n".join(lines)


def table_reading(rng: random.Random, *, held_out: bool = False) -> Task:
    """Look up a cell, or find the row with the largest or smallest value."""
    while True:
        rows, columns, cells = _sheet(rng, held_out)
        if len(set(rows)) == len(rows) and reserved("sheet", *rows, *cells[0]) == held_out:
            break
    questions: list[tuple[str, str, Check]] = []
    for _ in range(1 if held_out else rng.randint(1, 3)):
        c, r = rng.randrange(len(columns)), rng.randrange(len(rows))
        column, values = columns[c], [line[c] for line in cells]
        if rng.random() < 0.6:
            told = f"The {column.noun} of {rows[r]} is {values[r]}{column.unit}."
            others = [str(value) for value in values if value != values[r]]
            judge = holds_only(str(values[r]), [v for v in others if v not in told])
            questions.append((f"What is the {column.noun} of {rows[r]}?", told, judge))
        else:
            word, pick = rng.choice((("largest", max), ("smallest", min)))
            best = rows[values.index(pick(values))]
            told = f"{best} has the {word} {column.noun}, {pick(values)}{column.unit}."
            judge = holds_only(best, [row for row in rows if row != best])
            questions.append((f"Which has the {word} {column.noun}?", told, judge))
    return conversation_of(_as_table(rows, columns, cells), questions)


def counted_words(rng: random.Random, *, held_out: bool = False) -> Task:
    """How often a word stands in a row."""
    while True:
        words = rng.sample(pool("animals"), 2)
        row = [rng.choice(words) for _ in range(rng.randint(3, 8))]
        if words[0] in row and reserved("row", *row) == held_out:
            break
    count = row.count(words[0])
    times = "once" if count == 1 else f"{count} times"
    answer = f"{capitalized(words[0])} stands there {times}."
    judge = holds_only(times, [])
    return ask(f"How often does {words[0]} stand here: {' '.join(row)}?", answer, judge=judge)


MEASURES = Family(
    "measures",
    {
        "units, thinking": (conversion, 30),
        "temperature, thinking": (temperature, 3),
        "read a table": (table_reading, 56),
        "count a word": (counted_words, 8),
    },
)
