"""JSON: a record out of a sentence, by keys asked for or by a schema in `response_format`."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

from dougong.chat.completion import Completion
from dougong.train.data.task import Check, Family, Message, Task, ask, reserved
from dougong.train.data.words import CARDINALS, counted, draw_names, listed, pool, with_article

Record = dict[str, Any]
JSON_TYPES: dict[type, str] = {str: "string", int: "integer", bool: "boolean", list: "array"}


def is_json(expected: Any) -> Check:
    """The judge that wants this JSON value and nothing around it."""

    def judge(completion: Completion) -> bool:
        try:
            found = json.loads(completion.content)
        except (ValueError, RecursionError):
            return False
        return type(found) is type(expected) and bool(found == expected)

    return judge


def schema_of(record: Record) -> Message:
    """The JSON schema of records with these keys and types."""
    properties: dict[str, Any] = {key: {"type": JSON_TYPES[type(v)]} for key, v in record.items()}
    return {"type": "object", "properties": properties, "required": list(record)}


def _person(rng: random.Random, held_out: bool) -> tuple[str, Record]:
    name = draw_names(rng, 1, held_out=held_out)[0]
    age, city, job = rng.randint(5, 90), rng.choice(pool("places")), rng.choice(pool("jobs"))
    return rng.choice((
        (f"{name} is {age} years old and lives in {city}.",
         {"name": name, "age": age, "city": city}),
        (f"{name} is {with_article(job)} from {city}.", {"name": name, "job": job, "city": city}),
        (f"{name} is {with_article(job)} and is {age} years old.",
         {"name": name, "job": job, "age": age}),
    ))  # fmt: skip


def _purchase(rng: random.Random, held_out: bool) -> tuple[str, Record]:
    name = draw_names(rng, 1, held_out=held_out)[0]
    thing, color = rng.choice(pool("things")), rng.choice(pool("colors"))
    price, count = rng.randint(1, 99), rng.randint(2, 9)
    return rng.choice((
        (f"{name} buys {with_article(f'{color} {thing}')} for {price} coins.",
         {"name": name, "item": thing, "color": color, "price": price}),
        (f"{name} orders {counted(count, thing)}.", {"name": name, "item": thing, "count": count}),
        (f"The {thing} is {color} and costs {price} coins.",
         {"item": thing, "color": color, "price": price}),
    ))  # fmt: skip


def _pet(rng: random.Random, held_out: bool) -> tuple[str, Record]:
    owner, pet = draw_names(rng, 2, held_out=held_out)
    animal, age = rng.choice(pool("animals")), rng.randint(1, 15)
    hungry = rng.random() < 0.5
    state = "is hungry" if hungry else "is not hungry"
    return rng.choice((
        (f"{owner} has {with_article(animal)} called {pet}. It is {age} years old.",
         {"owner": owner, "animal": animal, "pet": pet, "age": age}),
        (f"{pet} is {with_article(animal)} and {state}.",
         {"name": pet, "animal": animal, "hungry": hungry}),
    ))  # fmt: skip


def _wishes(rng: random.Random, held_out: bool) -> tuple[str, Record]:
    name = draw_names(rng, 1, held_out=held_out)[0]
    foods = rng.sample(pool("foods"), rng.randint(2, 4))
    return f"{name} likes {listed(foods)}.", {"name": name, "likes": foods}


SCENES: tuple[Callable[[random.Random, bool], tuple[str, Record]], ...] = (
    _person, _person, _purchase, _purchase, _pet, _wishes,
)  # fmt: skip


def _scene(rng: random.Random, held_out: bool) -> tuple[str, Record]:
    """A sentence and its record; sometimes only some of the keys, in another order."""
    while True:
        text, record = rng.choice(SCENES)(rng, held_out)
        if reserved("record", text) == held_out:
            break
    keys = list(record)
    if rng.random() < 0.4:
        keys = rng.sample(keys, rng.randint(1, len(keys)))
    return text, {key: record[key] for key in keys}


def record_by_keys(rng: random.Random, *, held_out: bool = False) -> Task:
    """The keys stand in the question."""
    text, record = _scene(rng, held_out)
    keys = listed(list(record))
    form = rng.choice((
        "{t} Write this as JSON with the keys {k}.", "Give {k} as JSON. {t}",
        "Turn this into JSON with {k}: {t}", "{t}\nJSON with {k}, please.",
    ))  # fmt: skip
    answer = json.dumps(record, ensure_ascii=False)
    return ask(form.format(t=text, k=keys), answer, judge=is_json(record))


def record_by_schema(rng: random.Random, *, held_out: bool = False) -> Task:
    """The schema stands in the system message, as `response_format` puts it there."""
    text, record = _scene(rng, held_out)
    answer = {"role": "assistant", "content": json.dumps(record, ensure_ascii=False)}
    question = rng.choice(("{}", "{}", "Read this: {}", "Extract the data: {}")).format(text)
    return Task(
        messages=({"role": "user", "content": question},),
        answer=answer,
        judge=is_json(record),
        response_format=schema_of(record),
    )


def json_list(rng: random.Random, *, held_out: bool = False) -> Task:
    """Words or numbers as a JSON array."""
    while True:
        numbers = rng.random() < 0.4
        count = rng.randint(2, 6)
        items: list[Any] = (
            rng.sample(range(100), count) if numbers else rng.sample(pool("things"), count)
        )
        if reserved("list", *items) == held_out:
            break
    shown = ", ".join(map(str, items))
    form = rng.choice(("Write as a JSON list: {}", "Turn this into a JSON array: {}"))
    return ask(form.format(shown), json.dumps(items), judge=is_json(items))


def read_json(rng: random.Random, *, held_out: bool = False) -> Task:
    """A value out of a JSON record."""
    _, record = _scene(rng, held_out)
    key = rng.choice(list(record))
    question = f'{json.dumps(record, ensure_ascii=False)}\nWhat is the value of "{key}"?'
    return ask(question, json.dumps(record[key], ensure_ascii=False), judge=is_json(record[key]))


def count_json(rng: random.Random, *, held_out: bool = False) -> Task:
    """Counted things as an object: `{"apple": 3, "egg": 2}`."""
    while True:
        things = rng.sample(pool("things"), rng.randint(2, 4))
        record = {thing: rng.randint(1, 10) for thing in things}
        if reserved("counts", *record.items()) == held_out:
            break
    shown = listed([f"{CARDINALS[n]} {counted(n, thing).split(' ', 1)[1]}"
                    for thing, n in record.items()])  # fmt: skip
    question = f"There are {shown}. Write the numbers as JSON."
    return ask(question, json.dumps(record), judge=is_json(record))


JSON_OUTPUT = Family(
    "json",
    {
        "record with asked keys": (record_by_keys, 40),
        "record by schema": (record_by_schema, 30),
        "list": (json_list, 12),
        "value out of a record": (read_json, 10),
        "counts": (count_json, 8),
    },
)
