"""Writes docs/cli.md from the commands' own --help; with --check, only says whether it is current.

python tools/write_cli_docs.py [--check]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from dougong.cli.main import cli

PAGE = Path(__file__).resolve().parent.parent / "docs" / "cli.md"
WIDTH = 100  # the same on every terminal
INTRODUCTION = """\
# The command line

Written by `make docs` from the commands' own `--help`; a test compares the two.

Every command takes `--json`: one object on stdout with the keys that its help lists, and nothing
else. Progress goes to stderr once a command has run for two seconds. A failure is one line on
stderr; the exit status is 0 (done), 1 (refused or failed), 2 (a usage error), 130 (interrupted),
141 (the reader of stdout went away). `DOUGONG_TRACEBACK=1` shows where a failure came from.
"""


def helps(command: click.Command, name: str, parent: click.Context | None) -> Iterator[str]:
    """The help of a command and of every command below it, as Markdown sections."""
    settings = {**command.context_settings, "terminal_width": WIDTH, "max_content_width": WIDTH}
    context = click.Context(command, info_name=name, parent=parent, **settings)
    yield f"## {context.command_path}\n\n```text\n{command.get_help(context).rstrip()}\n```\n"
    if isinstance(command, click.Group):
        for child_name in command.list_commands(context):
            child = command.get_command(context, child_name)
            if child is not None:
                yield from helps(child, child_name, context)


def page() -> str:
    """The whole page."""
    return "\n".join([INTRODUCTION, *helps(cli, "dougong", None)])


def main() -> int:
    """Writes the page, or compares it."""
    if sys.argv[1:] == ["--check"]:
        if PAGE.is_file() and PAGE.read_text(encoding="utf-8") == page():
            return 0
        print(f"{PAGE.name} is not what --help says; run `make docs`.", file=sys.stderr)
        return 1
    if sys.argv[1:]:
        print(__doc__, file=sys.stderr)
        return 2
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
