"""V4's tool markup: how tools are declared to the model and how its calls are written back.

Source: encoding_dsv4.py of the V4 release.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from dougong.chat.pieces import PromptWriter
from dougong.chat.special import DSML, END_THINK, THINK
from dougong.chat.turns import ToolCall
from dougong.errors import InputError

_TOOLS_HEAD: Final = f"""## Tools

You have access to a set of tools to help answer the user's question. You can invoke tools by \
writing a "<{DSML}tool_calls>" block like the following:

<{DSML}tool_calls>
<{DSML}invoke name="$TOOL_NAME">
<{DSML}parameter name="$PARAMETER_NAME" string="true|false">$PARAMETER_VALUE</{DSML}parameter>
...
</{DSML}invoke>
<{DSML}invoke name="$TOOL_NAME2">
...
</{DSML}invoke>
</{DSML}tool_calls>

String parameters should be specified as is and set `string="true"`. For all other types \
(numbers, booleans, arrays, objects), pass the value in JSON format and set `string="false"`.

If thinking_mode is enabled (triggered by {THINK}), you MUST output your complete reasoning \
inside {THINK}...{END_THINK} BEFORE any tool calls or final response.

Otherwise, output directly after {END_THINK} with tool calls or final response.

### Available Tool Schemas

"""
_TOOLS_TAIL: Final = """

You MUST strictly follow the above defined tool name and parameter schemas to invoke tool calls.
"""
_RESPONSE_FORMAT_HEAD: Final = """## Response Format:

You MUST strictly adhere to the following schema to reply:
"""


def write_tools(writer: PromptWriter, functions: Iterable[Mapping[str, Any]]) -> None:
    """Declares functions: the instructions, then one JSON schema a line."""
    writer.markup(_TOOLS_HEAD)
    writer.verbatim("\n".join(to_json(function, "A tool") for function in functions))
    writer.markup(_TOOLS_TAIL)


def write_response_format(writer: PromptWriter, schema: object) -> None:
    """Asks for answers that follow a JSON schema, which is written as it is given."""
    writer.markup(_RESPONSE_FORMAT_HEAD)
    writer.verbatim(to_json(schema, "response_format"))


def write_tool_calls(writer: PromptWriter, calls: Iterable[ToolCall]) -> None:
    """The block of calls that ends an assistant's turn."""
    writer.markup(f"\n\n<{DSML}tool_calls>\n")
    for number, call in enumerate(calls):
        writer.markup(("\n" if number else "") + f'<{DSML}invoke name="')
        writer.verbatim(call.name)
        writer.markup('">\n')
        _write_arguments(writer, call.arguments)
        writer.markup(f"\n</{DSML}invoke>")
    writer.markup(f"\n</{DSML}tool_calls>")


def to_json(value: object, what: str) -> str:
    """JSON in the official encoder's spelling: non-ASCII kept, a space after each separator.

    Raises:  InputError starting with `what` if the value is not made of JSON types.
    """
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as problem:
        raise InputError(f"{what} cannot be written as JSON: {problem}.") from None


def _write_arguments(writer: PromptWriter, arguments: str) -> None:
    for number, (name, value) in enumerate(_read_arguments(arguments).items()):
        is_text = isinstance(value, str)
        writer.markup(("\n" if number else "") + f'<{DSML}parameter name="')
        writer.verbatim(name)
        writer.markup(f'" string="{"true" if is_text else "false"}">')
        writer.verbatim(value if is_text else to_json(value, "A tool call's argument"))
        writer.markup(f"</{DSML}parameter>")


def _read_arguments(arguments: str) -> dict[str, Any]:
    """Arguments by name; text that is not a JSON object is one argument called "arguments"."""
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {"arguments": arguments}
