"""Turns: what a conversation becomes before it is rendered.

V4 has no tool role. Tool results are blocks of a user turn, sorted by the order of the calls they
answer; without tools, the reasoning of past turns is dropped.

Source: encoding_dsv4.py of the V4 release.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ToolCall:
    """One call that an assistant turn made; `arguments` is JSON text as the model wrote it."""

    name: str
    arguments: str
    id: str | None = None


@dataclass(frozen=True, kw_only=True)
class Block:
    """A part of a user turn: text, or the result of a tool call."""

    text: str
    is_result: bool = False
    call_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One turn. User turns hold `blocks`, all others `content`."""

    role: str
    content: str = ""
    blocks: tuple[Block, ...] = ()
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()
    response_format: Any = None
    task: str | None = None
    wo_eos: bool = False


def merge_user_turns(turns: Iterable[Turn]) -> list[Turn]:
    """Neighbouring user turns, tool results among them, become one."""
    merged: list[Turn] = []
    for turn in turns:
        if merged and merged[-1].role == turn.role == "user":
            merged[-1] = replace(merged[-1], blocks=merged[-1].blocks + turn.blocks)
        else:
            merged.append(turn)
    return merged


def sort_tool_results(turns: Iterable[Turn]) -> list[Turn]:
    """Results inside one user turn follow the order of the latest calls; texts keep their place."""
    order: dict[str | None, int] = {}
    sorted_turns = []
    for turn in turns:
        if turn.tool_calls:
            order = {call.id: i for i, call in enumerate(turn.tool_calls) if call.id}
        results = [block for block in turn.blocks if block.is_result]
        # A result without an id counts as the first call's, as in the official encoder.
        results.sort(key=lambda block: order.get(block.call_id, 0))
        queue = iter(results)
        blocks = tuple(next(queue) if block.is_result else block for block in turn.blocks)
        sorted_turns.append(replace(turn, blocks=blocks))
    return sorted_turns


def drop_past_thinking(turns: Sequence[Turn]) -> list[Turn]:
    """Turns without the reasoning, and without the developer turns, before the last question."""
    last = last_question(turns)
    kept = []
    for index, turn in enumerate(turns):
        if index >= last:
            kept.append(turn)
        elif turn.role != "developer":
            kept.append(replace(turn, reasoning=""))
    return kept


def last_question(turns: Sequence[Turn]) -> int:
    """Index of the last user or developer turn, -1 if there is none."""
    indices = [i for i, turn in enumerate(turns) if turn.role in ("user", "developer")]
    return indices[-1] if indices else -1
