"""Tasks of the training families about held-out names, numbers, operands, tools and words."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from dougong.chat.completion import parse
from dougong.chat.prompt import encode_conversation
from dougong.train.data.families import FAMILIES
from dougong.train.data.task import Task
from dougong.train.evaluation.answering import Question, Reply
from dougong.train.evaluation.subject import Subject

ASKED, QUICK_ASKED = 50, 8  # of each kind
CONFIDENCE = 1.96  # standard deviations: 95 %


def family_suite(subject: Subject, name: str) -> dict[str, Any]:
    """Shares of right answers by kind of task.

    Keys of a kind: kind, thinking, asked, right, share, low, high (95 % interval of the share), and
    well_formed: answers that ended and that a program can read (tool calls, JSON).
    """
    kinds = []
    for kind in FAMILIES[name].kinds:
        rng = subject.rng(name, kind)
        count = QUICK_ASKED if subject.quick else ASKED
        tasks = [FAMILIES[name].draw(kind, rng, held_out=True) for _ in range(count)]
        replies = subject.answers(f"{name}: {kind}", [question_of(subject, t) for t in tasks])
        kinds.append(
            {"kind": kind, "thinking": tasks[0].thinking, **judged(subject, tasks, replies)}
        )
    return {"kinds": kinds}


def question_of(subject: Subject, task: Task) -> Question:
    """The task's prompt; three times as many tokens as its own answer has must do."""
    tokenizer = subject.tokenizer
    prompt = encode_conversation(tokenizer, list(task.messages), **task.options)
    length = len(tokenizer.encode(task.expected))
    return Question(ids=prompt, max_tokens=3 * length + 32)


def judged(subject: Subject, tasks: Sequence[Task], replies: Sequence[Reply]) -> dict[str, Any]:
    """How many of the replies are right, and how many well formed."""
    texts = [subject.tokenizer.decode(reply.ids) for reply in replies]
    pairs = list(zip(tasks, replies, texts, strict=True))
    right = sum(reply.ended and task.check(text) for task, reply, text in pairs)
    formed = sum(reply.ended and is_well_formed(task, text) for task, reply, text in pairs)
    return {**share_of(right, len(tasks)), "well_formed": formed / len(tasks)}


def is_well_formed(task: Task, text: str) -> bool:
    """Whether a program can read the answer, right or wrong.

    Tags and tool calls parse; a call names a given tool and only its parameters, the required ones
    among them; where the expected answer is JSON, so is this one.
    """
    completion = parse(text, thinking=task.thinking, tools=bool(task.tools))
    if completion.errors:
        return False
    schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in task.tools}
    for call in completion.tool_calls:
        schema = schemas.get(call.name)
        if schema is None:
            return False
        given = set(json.loads(call.arguments))
        if not set(schema.get("required", ())) <= given <= set(schema["properties"]):
            return False
    return not is_json(str(task.answer.get("content") or "")) or is_json(completion.content)


def is_json(text: str) -> bool:
    """Whether the text is a JSON object or array."""
    try:
        return isinstance(json.loads(text), dict | list)
    except (ValueError, RecursionError):
        return False


def share_of(right: int, asked: int) -> dict[str, Any]:
    """asked, right, share, and Wilson's 95 % interval of the share (Wilson, 1927)."""
    share, z = right / asked, CONFIDENCE
    middle = (share + z * z / (2 * asked)) / (1 + z * z / asked)
    half = z / (1 + z * z / asked) * math.sqrt(share * (1 - share) / asked + (z / (2 * asked)) ** 2)
    low, high = max(middle - half, 0.0), min(middle + half, 1.0)
    return {"asked": asked, "right": right, "share": share, "low": low, "high": high}
