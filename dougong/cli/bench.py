"""`dougong bench`: the group of commands that measure."""

from __future__ import annotations

import click

from dougong.cli.lazy import LazyGroup

MEMBERS = {
    "stream": ("dougong.cli.bench_stream", "Memory bandwidth and matrix products."),
    "kernels": ("dougong.cli.bench_kernels", "Matrix products in every weight format."),
    "model": ("dougong.cli.bench_model", "Prefill and decode speed of a model."),
    "engine": ("dougong.cli.bench_engine", "The engine: overhead, batches, caches, drafts."),
    "train": ("dougong.cli.bench_train", "Training steps, and what recomputation costs."),
    "formats": ("dougong.cli.bench_formats", "Number formats: bits, range and error."),
}


@click.group("bench", cls=LazyGroup, members=MEMBERS)
def command() -> None:
    """Measure; --record keeps the result for the report and the planner.

    \b
    Example:
      dougong bench formats --plot formats.png
    """
