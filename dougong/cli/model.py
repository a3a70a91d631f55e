"""`dougong model`: the group of commands about checkpoints."""

from __future__ import annotations

import click

from dougong.cli.lazy import LazyGroup

MEMBERS = {
    "inspect": ("dougong.cli.model_inspect", "Layers, parameters, bytes, KV cache and FLOPs."),
    "convert": ("dougong.cli.model_convert", "Write a checkpoint in another layout or format."),
    "quantize": ("dougong.cli.model_quantize", "Other number formats, with what they cost."),
    "fetch": ("dougong.cli.model_fetch", "A checkpoint from the hub, if it fits this machine."),
    "make": ("dougong.cli.model_make", "Random weights in a release's shapes and formats."),
}


@click.group("model", cls=LazyGroup, members=MEMBERS)
def command() -> None:
    """Inspect a checkpoint, change its form, or make one.

    \b
    Example:
      dougong model inspect v4-flash
    """
