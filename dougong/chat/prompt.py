"""The prompt of a conversation, byte for byte as DeepSeek-V4's official encoder writes it.

`render` gives the text, `encode_conversation` the ids. Differences from the official encoder are
errors where it would silently drop something (see messages.py), and that the ids of a caller's
text never are special (see pieces.py). `tokenizer.encode(render(...))` has the official ids, in
which a caller's text can forge markup; use it only for texts of your own.

Source: encoding_dsv4.py of the V4 release. Checked by: tests/parity/test_prompt.py and
tests/parity/test_prompt_against_recipe.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypedDict, Unpack

from dougong.chat import special
from dougong.chat.dsml import write_response_format, write_tool_calls, write_tools
from dougong.chat.effort import Profile, effort_text
from dougong.chat.messages import RawMessage, read_messages, read_tools
from dougong.chat.pieces import Piece, PromptWriter
from dougong.chat.tokenizer import Tokenizer
from dougong.chat.turns import Block, Turn, drop_past_thinking, last_question
from dougong.errors import InputError


class RenderOptions(TypedDict, total=False):
    """How a conversation is rendered; every option may be left out."""

    tools: Sequence[Mapping[str, Any]] | None
    """Functions in OpenAI's form that the model may call; they join the system message."""
    response_format: Any
    """JSON schema of the answer, written as it is unless empty; it joins the system message."""
    thinking: bool
    """Whether the model reasons before it answers. Default: False."""
    effort: str | None
    """How hard it reasons; without `thinking` it changes nothing. Default: None."""
    profile: Profile
    """Which efforts the checkpoint knows: "preview" (default) or "0813"."""
    drop_thinking: bool
    """Whether reasoning before the last question is left out. Default: True, but with tools
    anywhere all reasoning is kept."""


def render(messages: Sequence[RawMessage], **options: Unpack[RenderOptions]) -> str:
    """The prompt's text.

    A conversation that ends with a question ends with the opening of the answer: <think> when
    thinking, else </think>.

    Raises:  InputError if a message or an option is malformed, naming it.
    """
    return "".join(piece.text for piece in render_pieces(messages, **options))


def encode_conversation(
    tokenizer: Tokenizer, messages: Sequence[RawMessage], **options: Unpack[RenderOptions]
) -> list[int]:
    """The prompt's ids; special strings inside message texts stay ordinary text.

    Raises:  InputError if a message or an option is malformed; CheckpointError if the tokenizer
             lacks a special string that the prompt needs.
    """
    ids: list[int] = []
    for piece in render_pieces(messages, **options):
        if piece.is_special:
            ids.append(tokenizer.special_id(piece.text))
        else:
            ids.extend(tokenizer.encode(piece.text, special=False))
    return ids


def render_pieces(
    messages: Sequence[RawMessage],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    response_format: object = None,
    thinking: bool = False,
    effort: str | None = None,
    profile: Profile = "preview",
    drop_thinking: bool = True,
) -> list[Piece]:
    """The prompt, its template's special tokens told apart from everything else.

    Raises:  InputError if a message or an option is malformed, naming it.
    """
    opening = effort_text(effort, profile)
    turns = _with_request(read_messages(messages), tools, response_format)
    # With tools the model goes on thinking where it stopped, across turns.
    drops = drop_thinking and not any(turn.tools for turn in turns)
    if thinking and drops:
        turns = drop_past_thinking(turns)
    # Turns before this one are rendered as if the model had not been thinking.
    thinks_from = last_question(turns) if drops else -1
    writer = PromptWriter()
    writer.markup(special.BOS)
    if thinking:
        writer.markup(opening)
    for index, turn in enumerate(turns):
        before = turns[index - 1] if index else None
        after = turns[index + 1] if index + 1 < len(turns) else None
        _write_turn(writer, turn, before, thinks=thinking and index > thinks_from)
        if after is None or after.role in ("assistant", "latest_reminder"):
            _write_transition(writer, turn, thinking, thinks=thinking and index >= thinks_from)
    return writer.pieces()


def _with_request(
    turns: list[Turn], tools: Sequence[Mapping[str, Any]] | None, response_format: object
) -> list[Turn]:
    """Turns with the request's own tools and format put into a system turn at the front."""
    functions = read_tools(tools or [], "tools")
    if not functions and not response_format:
        return turns
    first = turns[0] if turns[0].role == "system" else Turn(role="system")
    rest = turns[1:] if turns[0].role == "system" else turns
    if functions and first.tools:
        raise InputError("tools are given twice, by the request and by messages[0].tools.")
    if response_format and first.response_format:
        raise InputError("response_format is given twice, by the request and by messages[0].")
    first = replace(
        first,
        tools=functions or first.tools,
        response_format=response_format or first.response_format,
    )
    return [first, *rest]


def _write_turn(writer: PromptWriter, turn: Turn, before: Turn | None, thinks: bool) -> None:
    if turn.role == "user":
        writer.markup(special.USER)
        _write_blocks(writer, turn)
    elif turn.role == "assistant":
        answers_task = before is not None and before.task is not None
        if thinks and not answers_task:
            writer.verbatim(turn.reasoning)
            writer.markup(special.END_THINK)
        writer.verbatim(turn.content)
        if turn.tool_calls:
            write_tool_calls(writer, turn.tool_calls)
        if not turn.wo_eos:
            writer.markup(special.EOS)
    else:
        opening = {"developer": special.USER, "latest_reminder": special.LATEST_REMINDER}
        writer.markup(opening.get(turn.role, ""))
        writer.verbatim(turn.content)
        if turn.tools:
            writer.markup("\n\n")
            write_tools(writer, turn.tools)
        if turn.response_format:
            writer.markup("\n\n")
            write_response_format(writer, turn.response_format)


def _write_blocks(writer: PromptWriter, turn: Turn) -> None:
    for number, block in enumerate(turn.blocks):
        writer.markup("\n\n" if number else "")
        if block.is_result:
            writer.markup("<tool_result>")
            writer.verbatim(block.text)
            writer.markup("</tool_result>")
        else:
            _write_text(writer, block, turn.task)


def _write_text(writer: PromptWriter, block: Block, task: str | None) -> None:
    text = block.text
    # The one special token that callers write themselves: it opens the url of a read_url task.
    if task == "read_url" and text.startswith(special.EXTRACTED_URL):
        writer.markup(special.EXTRACTED_URL)
        text = text.removeprefix(special.EXTRACTED_URL)
    writer.verbatim(text)


def _write_transition(writer: PromptWriter, turn: Turn, thinking: bool, thinks: bool) -> None:
    """What opens the answer to a turn: a task's token, or the assistant's turn."""
    if turn.task == "action":
        writer.markup(special.ASSISTANT + (special.THINK if thinking else special.END_THINK))
        writer.markup(special.TASKS["action"])
    elif turn.task is not None:
        writer.markup(special.TASKS[turn.task])
    elif turn.role in ("user", "developer"):
        writer.markup(special.ASSISTANT + (special.THINK if thinks else special.END_THINK))
