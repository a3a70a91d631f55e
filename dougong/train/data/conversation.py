"""Conversations: several tasks of different families asked one after the other in one chat."""

from __future__ import annotations

import random

from dougong.train.data.arithmetic import ARITHMETIC
from dougong.train.data.copying import COPYING
from dougong.train.data.facts import FACTS
from dougong.train.data.instructions import INSTRUCTIONS
from dougong.train.data.recall import RECALL, holds_only
from dougong.train.data.stories import STORIES
from dougong.train.data.talk import TALK, TOLD
from dougong.train.data.task import Family, Message, Task
from dougong.train.data.words import draw_name

JOINED = (TALK, FACTS, ARITHMETIC, STORIES, RECALL, COPYING, INSTRUCTIONS)
ODDS = (25, 20, 15, 15, 10, 8, 7)


def join(tasks: list[Task]) -> Task:
    """The tasks as one conversation; the last one is judged.

    System messages do not fit between turns, so no task may have one. The prompt encoder leaves out
    reasoning before the last question, so only the last task may think: answers that need their
    reasoning would be trained on without it.
    """
    messages: list[Message] = []
    for task in tasks[:-1]:
        messages += [*task.messages, task.answer]
    last = tasks[-1]
    return Task(messages=(*messages, *last.messages), answer=last.answer, judge=last.judge)


def _task(rng: random.Random, *, last: bool, held_out: bool = False) -> Task:
    while True:
        task = rng.choices(JOINED, ODDS)[0](rng, held_out=held_out)
        if task.messages[0]["role"] == "user" and (last or not task.thinking):
            return task


def several_tasks(rng: random.Random, *, held_out: bool = False) -> Task:
    """Two to five tasks."""
    tasks = [_task(rng, last=False) for _ in range(rng.randint(1, 4))]
    return join([*tasks, _task(rng, last=True, held_out=held_out)])


def remembered_name(rng: random.Random, *, held_out: bool = False) -> Task:
    """A name is told first and asked for behind one to three tasks."""
    name = draw_name(rng, held_out=held_out)
    opening: tuple[Message, ...] = (
        {"role": "user", "content": rng.choice(TOLD).format(name)},
        {"role": "assistant", "content": f"Nice to meet you, {name}!"},
    )
    question = {"role": "user", "content": "What is my name?"}
    answer = {"role": "assistant", "content": f"Your name is {name}."}
    last = Task(messages=(question,), answer=answer, judge=holds_only(name, []))
    task = join([*(_task(rng, last=False) for _ in range(rng.randint(1, 3))), last])
    return Task(messages=(*opening, *task.messages), answer=answer, judge=last.judge)


CONVERSATIONS = Family(
    "conversations",
    {"several tasks": (several_tasks, 75), "remembered name": (remembered_name, 25)},
)
