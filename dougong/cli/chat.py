"""`dougong chat`: a conversation, line by line."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from dougong.cli import options

if TYPE_CHECKING:
    from dougong.api import Answer, Model

Message = dict[str, Any]
FORGET = "/new"


@click.command("chat")
@options.model_options
@click.option("--system", default=None, metavar="TEXT", help="What the model is told beforehand.")
@options.asking_options
@options.json_option
def command(system: str | None, as_json: bool, **words: Any) -> None:
    """Talk with a model: each line of stdin is a message.

    In a terminal, Ctrl-C cuts an answer off and Ctrl-D leaves; `/new` on a line of its own forgets
    the conversation. The same lines and the same seed give the same answers.

    \b
    Examples:
      dougong chat --thinking --seed 7
      printf 'Hello!\\nWhat is 2 + 3?\\n' | dougong chat

    \b
    JSON: model, backend, dtype, rounding, messages (the conversation), answers (as `generate`
    reports them)
    """
    how = options.chosen(words)
    model = options.load(words)
    start = [] if system is None else [{"role": "system", "content": system}]
    messages, answers = converse(model, start, silent=as_json, asking=words)
    report = {**how, "messages": messages, "answers": answers}
    if as_json:
        options.emit(report, as_json, "")


def converse(
    model: Model, start: list[Message], *, silent: bool, asking: dict[str, Any]
) -> tuple[list[Message], list[dict[str, Any]]]:
    """Answers every line of stdin; returns the conversation and the answers' figures."""
    from dougong.cli.show import as_report, ask, summary

    messages, answers = list(start), []
    for line in lines():
        if line == FORGET:
            messages = list(start)
            continue
        messages.append({"role": "user", "content": line})
        try:
            answer = ask(model, messages, silent=silent, **asking)
        except KeyboardInterrupt:
            if not sys.stdin.isatty():
                raise
            messages.pop()  # a question without an answer is no turn
            continue
        messages.append(turn(answer))
        answers.append(as_report(answer))
        if not silent:
            click.echo(summary(answer), err=True)
    return messages, answers


def turn(answer: Answer) -> Message:
    """The answer as the conversation's next message."""
    message: Message = {"role": "assistant", "content": answer.text}
    if answer.reasoning:
        message["reasoning_content"] = answer.reasoning
    return message


def lines() -> Iterator[str]:
    """The user's lines, blank ones left out; a terminal is asked for each with `> `."""
    if not sys.stdin.isatty():
        yield from (line for raw in sys.stdin if (line := raw.strip()))
        return
    with contextlib.suppress(ImportError):  # some builds of Python lack it
        import readline  # noqa: F401 - gives input() editing and history

    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            click.echo()
            return
        if line:
            yield line
