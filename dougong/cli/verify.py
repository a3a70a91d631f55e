"""`dougong verify`: the group of commands that check what computes."""

from __future__ import annotations

import click

from dougong.cli.lazy import LazyGroup

MEMBERS = {
    "kernels": ("dougong.cli.verify_kernels", "A backend's operators against the reference."),
    "engine": ("dougong.cli.verify_engine", "Answers together against the same answers alone."),
}


@click.group("verify", cls=LazyGroup, members=MEMBERS)
def command() -> None:
    """Check that this machine computes what it should.

    \b
    Example:
      dougong verify kernels --seconds 60
    """
