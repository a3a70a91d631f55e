"""Conversations, checked on the way in: nothing malformed reaches a prompt, nothing is dropped.

Messages have OpenAI's form, plus V4's own roles (developer, latest_reminder) and fields (task,
wo_eos). An error names the message's index and field.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from dougong.chat import special
from dougong.chat.turns import Block, ToolCall, Turn, merge_user_turns, sort_tool_results
from dougong.errors import InputError

RawMessage = Mapping[str, Any]

# Role -> the fields that it may carry besides `role`.
_FIELDS: dict[str, frozenset[str]] = {
    "system": frozenset({"content", "tools", "response_format"}),
    "user": frozenset({"content", "task"}),
    "developer": frozenset({"content", "tools", "response_format", "task"}),
    "latest_reminder": frozenset({"content"}),
    "assistant": frozenset({"content", "reasoning_content", "tool_calls", "task", "wo_eos"}),
    "tool": frozenset({"content", "tool_call_id"}),
}
# Fields of API messages that never reach a prompt: a training mask, a participant's name, ...
_IGNORED = frozenset({"mask", "name", "refusal", "annotations"})


def read_messages(messages: Sequence[RawMessage]) -> list[Turn]:
    """The turns of a conversation, tool results merged into user turns and sorted.

    Raises:  InputError naming the index and the field of the first message that is malformed.
    """
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence):
        raise InputError("messages must be a list of messages, each a dict with a 'role'.")
    if not messages:
        raise InputError("messages is empty: a prompt needs at least one message.")
    turns = [_read_message(index, message) for index, message in enumerate(messages)]
    _check_tool_results(messages, turns)
    _check_tasks(turns)
    return sort_tool_results(merge_user_turns(turns))


def _read_message(index: int, message: RawMessage) -> Turn:
    if not isinstance(message, Mapping):
        raise InputError(f"messages[{index}] must be a dict, found {type(message).__name__}.")
    given = {key: value for key, value in message.items() if value is not None}
    role = given.pop("role", None)
    if not isinstance(role, str) or role not in _FIELDS:
        raise _error(index, "role", f"is {role!r}: use one of {', '.join(_FIELDS)}")
    for field in given:
        if field not in _FIELDS[role] | _IGNORED:
            known = ", ".join(sorted(_FIELDS[role]))
            raise _error(index, str(field), f"means nothing in a {role} message: it takes {known}")
    turn = Turn(
        role="user" if role == "tool" else role,
        reasoning=_read_text(index, given, "reasoning_content"),
        tool_calls=_read_tool_calls(index, given.get("tool_calls", [])),
        tools=read_tools(given.get("tools", []), f"messages[{index}].tools"),
        response_format=given.get("response_format"),
        task=_read_task(index, given.get("task")),
        wo_eos=_read_flag(index, given, "wo_eos"),
    )
    if role == "tool":
        return replace(turn, blocks=(_read_result(index, given, "tool_call_id"),))
    if role == "user":
        return replace(turn, blocks=_read_user_blocks(index, given))
    return replace(turn, content=_read_content(index, given, turn))


def _read_content(index: int, given: RawMessage, turn: Turn) -> str:
    has_more = turn.reasoning or turn.tool_calls or turn.tools or turn.response_format
    if "content" not in given and not (has_more and turn.role in ("assistant", "system")):
        raise _error(index, "content", f"is missing: a {turn.role} message needs it")
    content = _read_text(index, given, "content")
    if turn.role == "developer" and not content:
        raise _error(index, "content", "is empty: a developer message needs text")
    return content


def _read_text(index: int, given: RawMessage, field: str) -> str:
    text = given.get(field, "")
    if not isinstance(text, str):
        raise _error(index, field, f"must be a string, found {type(text).__name__}")
    return text


def _read_flag(index: int, given: RawMessage, field: str) -> bool:
    flag = given.get(field, False)
    if not isinstance(flag, bool):
        raise _error(index, field, f"must be true or false, found {flag!r}")
    return flag


def _read_task(index: int, task: object) -> str | None:
    if task is None or isinstance(task, str) and task in special.TASKS:
        return task
    raise _error(index, "task", f"is {task!r}: use one of {', '.join(special.TASKS)}")


def _read_user_blocks(index: int, given: RawMessage) -> tuple[Block, ...]:
    if "content" not in given:
        raise _error(index, "content", "is missing: a user message needs it")
    content = given["content"]
    if isinstance(content, str):
        return (Block(text=content),)
    if not isinstance(content, Sequence):
        found = type(content).__name__
        raise _error(index, "content", f"must be a string or a list of blocks, found {found}")
    blocks = []
    for number, block in enumerate(content):
        field = f"content[{number}]"
        kind = block.get("type") if isinstance(block, Mapping) else None
        if kind == "text" and isinstance(block.get("text"), str):
            blocks.append(Block(text=block["text"]))
        elif kind == "tool_result":
            blocks.append(_read_result(index, block, "tool_use_id", f"{field}."))
        else:
            raise _error(index, field, "must be a block of type text or tool_result with its text")
    return tuple(blocks)


def _read_result(index: int, given: RawMessage, id_field: str, prefix: str = "") -> Block:
    """A tool message, or a tool_result block of a user message."""
    call_id = given.get(id_field)
    if call_id is not None and not isinstance(call_id, str):
        raise _error(index, prefix + id_field, f"must be a string, found {call_id!r}")
    content = given.get("content")
    if content is None:
        raise _error(index, f"{prefix}content", "is missing: a tool result needs it")
    if isinstance(content, Sequence) and not isinstance(content, str | bytes):
        content = "\n\n".join(_result_part(index, f"{prefix}content", part) for part in content)
    if not isinstance(content, str):
        kind = type(content).__name__
        raise _error(index, f"{prefix}content", f"must be a string or a list, found {kind}")
    return Block(text=content, is_result=True, call_id=call_id)


def _result_part(index: int, field: str, part: object) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if not isinstance(part, Mapping) or not isinstance(kind, str):
        raise _error(index, field, "must hold blocks, each a dict with a 'type'")
    if kind != "text":
        return f"[Unsupported {kind}]"  # the official encoder tells the model so
    text = part.get("text", "")
    if not isinstance(text, str):
        raise _error(index, field, f"holds a text block whose text is {type(text).__name__}")
    return text


def _read_tool_calls(index: int, calls: object) -> tuple[ToolCall, ...]:
    if not isinstance(calls, Sequence) or isinstance(calls, str | bytes):
        raise _error(index, "tool_calls", f"must be a list, found {type(calls).__name__}")
    read = []
    for number, call in enumerate(calls):
        field = f"tool_calls[{number}]"
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping):
            raise _error(index, field, "must be a dict with a 'function'")
        name, arguments = function.get("name"), function.get("arguments")
        if not isinstance(name, str) or not name:
            raise _error(index, f"{field}.function.name", "must be a string that is not empty")
        if not isinstance(arguments, str):
            raise _error(index, f"{field}.function.arguments", "must be a string of JSON")
        call_id = call.get("id") or function.get("id")
        if call_id is not None and not isinstance(call_id, str):
            raise _error(index, f"{field}.id", f"must be a string, found {call_id!r}")
        read.append(ToolCall(name=name, arguments=arguments, id=call_id))
    return tuple(read)


def read_tools(tools: object, where: str) -> tuple[Mapping[str, Any], ...]:
    """The function definitions of a list of tools in OpenAI's form.

    Raises:  InputError starting with `where` if one is not a function with a name.
    """
    if not isinstance(tools, Sequence) or isinstance(tools, str | bytes):
        raise InputError(f"{where} must be a list, found {type(tools).__name__}.")
    functions = []
    for number, tool in enumerate(tools):
        function = tool.get("function") if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise InputError(
                f"{where}[{number}] must be"
                ' {"type": "function", "function": {"name": ..., "parameters": ...}}.'
            )
        functions.append(function)
    return tuple(functions)


def _error(index: int, field: str, problem: str) -> InputError:
    return InputError(f"messages[{index}].{field} {problem}.")


def _check_tool_results(messages: Sequence[RawMessage], turns: Sequence[Turn]) -> None:
    """Every result answers a call of the assistant message before it."""
    calls: tuple[ToolCall, ...] = ()
    for index, turn in enumerate(turns):
        if turn.role == "assistant":
            calls = turn.tool_calls
        results = [block for block in turn.blocks if block.is_result]
        if results and not calls:
            role = messages[index]["role"]
            raise _error(index, "role", f"is {role!r}, but no tool call comes before this result")
        ids = [call.id for call in calls]
        for result in results:
            if result.call_id and None not in ids and result.call_id not in ids:
                known = ", ".join(str(call_id) for call_id in ids)
                raise _error(
                    index,
                    "tool_call_id",
                    f"is {result.call_id!r}, but the assistant's calls before it are {known}",
                )


def _check_tasks(turns: Sequence[Turn]) -> None:
    """A task is only rendered at the end of its turn; anywhere else it would be lost."""
    for index, turn in enumerate(turns):
        if turn.task is None:
            continue
        after = turns[index + 1].role if index + 1 < len(turns) else "assistant"
        if after not in ("assistant", "latest_reminder"):
            raise _error(index, "task", "needs the next message to be the assistant's, or none")
        before = turns[index - 1] if index else None
        if before and before.role == turn.role == "user":
            raise _error(
                index,
                "task",
                "would be lost: this message joins the user or tool message before it",
            )
