"""Tool calls in V4's DSML: declared by the real prompt encoder, called, and their results told.

Names of tools are drawn from several for each, many with a made-up word, so that they must be read
from the schema, and arguments copied from the request. One in ten names is kept for evaluation.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from functools import cache
from typing import Any

from dougong.chat.completion import Completion
from dougong.train.data.facts import FACTS
from dougong.train.data.recall import holds_only
from dougong.train.data.talk import TALK
from dougong.train.data.task import Check, Family, Message, Task, part_of, reserved
from dougong.train.data.words import draw_names, made_up_word, pool, table

RENAMED = 0.4  # share of tools in training with a name of their own
THINKS = 0.35  # share of calls that are thought about first
Arguments = dict[str, Any]


@dataclass(frozen=True)
class Tool:
    """One tool under the name that a sample gives it."""

    name: str
    row: dict[str, Any]

    @property
    def function(self) -> Message:
        """Its declaration in OpenAI's form."""
        properties = {
            name: {"type": kind, "description": text} for name, kind, text, _ in self.row["args"]
        }
        return {
            "type": "function",
            "function": {
                "name": self.name,
                "description": self.row["description"],
                "parameters": {
                    "type": "object",
                    "properties": properties,
                    "required": list(properties),
                },
            },
        }


@cache
def _named(held_out: bool) -> list[Tool]:
    """Every tool under each of its names for training, or for evaluation."""
    return [
        Tool(name, row)
        for row in table("tools")["tool"]
        for name in part_of("tool", row["names"], held_out)
    ]


def draw_tools(rng: random.Random, count: int, *, held_out: bool = False) -> list[Tool]:
    """The tool to be called and `count - 1` others, each of another sort.

    In the evaluation the first has a name that training never shows; in training many have one that
    nobody can know by heart.
    """
    chosen = [rng.choice(_named(held_out))]
    while len(chosen) < count:
        other = rng.choice(_named(False))
        if all(other.row is not tool.row for tool in chosen):
            chosen.append(other)
    return chosen if held_out else [_renamed(rng, tool) for tool in chosen]


def _renamed(rng: random.Random, tool: Tool) -> Tool:
    """The tool, often with a made-up word in its name: `kavo_get_time`, `get_time_kavo`."""
    if rng.random() > RENAMED:
        return tool
    while True:
        parts = [tool.name, made_up_word(rng)]
        name = "_".join(rng.sample(parts, 2))
        if not reserved("tool", name):
            return Tool(name, tool.row)


def draw_arguments(rng: random.Random, tool: Tool, *, held_out: bool = False) -> Arguments:
    """A value for each argument."""
    return {name: _value(rng, source, held_out) for name, _, _, source in tool.row["args"]}


def _value(rng: random.Random, source: str, held_out: bool) -> Any:
    ranges = {"numbers": (2, 999), "hours": (0, 23), "small": (2, 9)}
    if source in ranges:
        return rng.randint(*ranges[source])
    if source == "switch":
        return rng.random() < 0.5
    if source == "names":
        return draw_names(rng, 1, held_out=held_out)[0]
    values = table("tools")["values"]
    return rng.choice(values[source]) if source in values else rng.choice(pool(source))


def shown(value: Any) -> str:
    """A value as people say it."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)


def request(rng: random.Random, tool: Tool, arguments: Arguments) -> str:
    """The user's words for this call."""
    text: str = rng.choice(tool.row["ask"])
    return text.format_map({key: shown(value) for key, value in arguments.items()})


def call_message(calls: list[tuple[Tool, Arguments]], thought: str | None) -> Message:
    """The assistant's message with these calls."""
    message: Message = {"role": "assistant", "content": "", "tool_calls": [
        {"id": f"call_{i}", "type": "function", "function": {
            "name": tool.name, "arguments": json.dumps(arguments, ensure_ascii=False)}}
        for i, (tool, arguments) in enumerate(calls)
    ]}  # fmt: skip
    if thought is not None:
        message["reasoning_content"] = thought
    return message


def calls_exactly(calls: list[tuple[str, Arguments]]) -> Check:
    """The judge that wants these calls in any order, and nothing else but them."""

    def key(name: str, arguments: Any) -> str:
        return json.dumps([name, arguments], sort_keys=True)

    wanted = sorted(key(name, arguments) for name, arguments in calls)

    def judge(completion: Completion) -> bool:
        made = [key(call.name, json.loads(call.arguments)) for call in completion.tool_calls]
        return sorted(made) == wanted and not completion.content.strip()

    return judge


def _thought(rng: random.Random, calls: list[tuple[Tool, Arguments]]) -> str | None:
    if rng.random() > THINKS:
        return None
    steps = []
    for tool, arguments in calls:
        told = " and ".join(f"{name} is {shown(value)}" for name, value in arguments.items())
        steps.append(f"I need {tool.name}: {told}.")
    return " ".join(steps)


def _declared(rng: random.Random, tools: list[Tool]) -> tuple[Message, ...]:
    """The declarations in random order."""
    return tuple(tool.function for tool in rng.sample(tools, len(tools)))


def one_call(rng: random.Random, *, held_out: bool = False) -> Task:
    """One request, one call; one to three tools to choose from."""
    tools = draw_tools(rng, rng.randint(1, 3), held_out=held_out)
    arguments = draw_arguments(rng, tools[0], held_out=held_out)
    calls = [(tools[0], arguments)]
    return Task(
        messages=({"role": "user", "content": request(rng, tools[0], arguments)},),
        tools=_declared(rng, tools),
        answer=call_message(calls, _thought(rng, calls)),
        judge=calls_exactly([(tools[0].name, arguments)]),
    )


def two_calls(rng: random.Random, *, held_out: bool = False) -> Task:
    """Two requests at once: of two tools, or twice of the same."""
    tools = draw_tools(rng, 2, held_out=held_out)
    used = [tools[0], tools[0] if rng.random() < 0.5 else tools[1]]
    calls = [(tool, draw_arguments(rng, tool, held_out=held_out)) for tool in used]
    if calls[0] == calls[1]:
        return two_calls(rng, held_out=held_out)
    return Task(
        messages=({"role": "user", "content": " ".join(request(rng, *call) for call in calls)},),
        tools=_declared(rng, tools),
        answer=call_message(calls, _thought(rng, calls)),
        judge=calls_exactly([(tool.name, arguments) for tool, arguments in calls]),
    )


def result_told(rng: random.Random, *, held_out: bool = False) -> Task:
    """The call and its result stand in the conversation; the answer tells the result."""
    tools = draw_tools(rng, rng.randint(1, 2), held_out=held_out)
    tool = tools[0]
    arguments = draw_arguments(rng, tool, held_out=held_out)
    low, high = {"hours": (0, 23)}.get(tool.row["args"][0][3], (2, 99))
    n = rng.randint(low, 23 if '"time"' in tool.row["result"] else high)
    weather = rng.choice(table("tools")["values"]["weather"])
    fields = {"n": str(n), "w": made_up_word(rng, held_out=held_out), "weather": weather}
    fields |= {key: shown(value) for key, value in arguments.items()}
    result = tool.row["result"]
    for key, value in fields.items():
        result = result.replace(f"{{{key}}}", value)
    answer: Message = {"role": "assistant", "content": tool.row["say"].format_map(fields)}
    calls = [(tool, arguments)]
    thought = _thought(rng, calls)
    if thought is not None:
        answer["reasoning_content"] = f"The tool says {result}"
    new = [value for key, value in fields.items() if key in ("n", "w", "weather")
           and value in answer["content"] and value in result]  # fmt: skip
    return Task(
        messages=(
            {"role": "user", "content": request(rng, tool, arguments)},
            call_message(calls, thought),
            {"role": "tool", "content": result, "tool_call_id": "call_0"},
        ),
        tools=_declared(rng, tools),
        answer=answer,
        judge=_tells(new or [shown(value) for value in arguments.values()][:1]),
    )


def _tells(values: list[str]) -> Check:
    judges = [holds_only(value, []) for value in values]
    return lambda c: (
        bool(c.content.strip()) and not c.tool_calls and all(judge(c) for judge in judges)
    )


def no_call(rng: random.Random, *, held_out: bool = False) -> Task:
    """A question that needs no tool, although there are some."""
    tools = draw_tools(rng, rng.randint(1, 3), held_out=held_out)
    task = rng.choice((TALK.kinds["small talk"][0], FACTS))(rng, held_out=held_out)

    def judge(completion: Completion) -> bool:
        return not completion.tool_calls and task.judge(completion)

    answer = dict(task.answer)
    if rng.random() < THINKS:
        answer["reasoning_content"] = "I can answer this without a tool."
    messages = task.messages
    if "reasoning_content" in answer:
        # With tools the encoder keeps all reasoning: earlier answers would have an empty one.
        messages = messages[-1:]
    return Task(messages=messages, tools=_declared(rng, tools), answer=answer, judge=judge)


TOOL_CALLS = Family(
    "tools",
    {
        "one call": (one_call, 42),
        "two calls": (two_calls, 14),
        "result told": (result_told, 20),
        "no tool needed": (no_call, 24),
    },
)
