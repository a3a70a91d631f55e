"""What the commands share: common options, output as text or JSON, progress on stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dougong.cli.values import BYTES, TOKENS

if TYPE_CHECKING:
    from dougong.api import Model
    from dougong.api_engine import Engine

F = TypeVar("F", bound=Callable[..., Any])


def together(*options: Callable[[Any], Any]) -> Callable[[F], F]:
    """Several options as one decorator; --help lists them in this order."""

    def add(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return add


SMALL_MODEL_PARAMETERS = 50_000_000
DTYPES = ("float32", "float64", "bfloat16")

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object on stdout and nothing else."
)
model_option = click.option(
    "--model", "-m", default="nano", show_default=True, help="Folder, shipped name or org/name."
)
threads_option = click.option(
    "--threads",
    type=click.IntRange(1, 1024),
    default=None,
    help="CPU threads for tensor arithmetic. [default: torch's choice; 1 for a small model, whose "
    "matrices are too small to share]",
)
backend_option = click.option(
    "--backend",
    default="reference",
    show_default=True,
    help="Which implementations of the operators to use; `dougong doctor` lists them.",
)
serving_backend_option = click.option(
    "--backend",
    default=None,
    help="Which implementations of the operators to use; `dougong doctor` lists them. [default: "
    "cpu for a V4 model where its library is built, else reference]",
)
fallback_option = click.option(
    "--no-fallback",
    is_flag=True,
    help="Refuse a backend that leaves operators to the reference.",
)
rounding_option = click.option(
    "--rounding",
    type=click.Choice(["none", "release"]),
    default="none",
    show_default=True,
    help="Run-time rounding of activations and caches as in the release, or none.",
)
serving_rounding_option = click.option(
    "--rounding",
    type=click.Choice(["none", "release"]),
    default=None,
    help="Run-time rounding of activations and caches as in the release, or none. [default: "
    "release for a checkpoint with a quantization_config, which was made to run so; else none]",
)
dtype_option = click.option(
    "--dtype",
    type=click.Choice(DTYPES),
    default="float32",
    show_default=True,
    help="Number type of the arithmetic.",
)
serving_dtype_option = click.option(
    "--dtype",
    type=click.Choice(DTYPES),
    default=None,
    help="Number type of the arithmetic. [default: bfloat16, the release's own; float32 on backend "
    "reference]",
)
memory_option = click.option(
    "--memory",
    type=BYTES,
    default=None,
    help="Hold so much of the weights at most, such as 8GiB; routed experts beyond that are read "
    "when they are needed. For checkpoints larger than memory; the answers are the same.",
)
memory_tokens_option = click.option(
    "--memory-tokens",
    type=TOKENS,
    default=65_536,
    show_default="64k",
    help="Tokens of state to keep for requests that run together, and for what may come again.",
)
trace_option = click.option(
    "--trace",
    type=click.Path(path_type=Path),
    default=None,
    metavar="FILE",
    help="Write every step and request of the engine for a browser's trace viewer.",
)


# --model and how it is loaded; `load` takes what they collect.
model_options = together(
    model_option,
    serving_backend_option,
    fallback_option,
    serving_dtype_option,
    serving_rounding_option,
    memory_option,
    threads_option,
)
profile_option = click.option(
    "--profile",
    type=click.Choice(["preview", "0813"]),
    default="preview",
    show_default=True,
    help="The checkpoint's generation, which knows other efforts.",
)
# The options of `Model.stream`: how to think, how to draw, when to stop.
asking_options = together(
    click.option("--thinking", is_flag=True, help="Let the model reason before it answers."),
    click.option("--effort", default=None, help="How hard to reason, such as high or max."),
    profile_option,
    click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True,
                 help="The same seed gives the same answer."),
    click.option("--temperature", type=click.FloatRange(min=0), default=1.0, show_default=True,
                 help="0 always takes the likeliest token."),
    click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), default=1.0,
                 show_default=True, help="Keep the likeliest tokens up to this mass."),
    click.option("--top-k", type=click.IntRange(min=0), default=0, show_default=True,
                 help="Keep this many likeliest tokens; 0 keeps all."),
    click.option("--min-p", type=click.FloatRange(0, 1), default=0.0, show_default=True,
                 help="Drop tokens below this fraction of the likeliest one."),
    click.option("--max-tokens", type=TOKENS, default=256, show_default=True,
                 help="Stop after this many new tokens."),
)  # fmt: skip


def chosen(words: dict[str, Any]) -> dict[str, str]:
    """How the model that `model_options` name is to compute, what they leave open filled in.

    Under the keys of `--json`: model, backend, dtype, rounding.
    """
    from dougong.api import serving_backend, serving_dtype, serving_rounding

    name, dtype = words["model"], words["dtype"]
    backend = words["backend"] or serving_backend(name, dtype)
    return {
        "model": name,
        "backend": backend,
        "dtype": dtype or serving_dtype(backend),
        "rounding": words["rounding"] or serving_rounding(name),
    }


def load(words: dict[str, Any]) -> Model:
    """Loads the model that the options of `model_options` name, and takes them out of `words`."""
    from dougong.api import load as load_model

    how = chosen(words)
    threads, fallback = words.pop("threads"), not words.pop("no_fallback")
    memory = words.pop("memory", None)
    for key in how:
        del words[key]
    if memory is None and how["backend"] == "cpu":
        mention_size(how["model"])
    model = load_model(how.pop("model"), fallback=fallback, memory=memory, **how)
    choose_threads(threads, model)
    return model


def served_name(name: str) -> str:
    """What requests call the model: a folder goes by its own name, not by where it lies."""
    return name if not Path(name).is_dir() else Path(name).resolve().name


def mention_fault(engine: Engine) -> None:
    """Says if the engine's trace is not whole."""
    trace = engine.metrics.trace
    if trace is not None and trace.fault is not None:
        click.echo(trace.fault, err=True)


def mention_size(name: str) -> None:
    """Says what to do about weights that do not fit in memory, which the system would page."""
    from dougong.checkpoint.locate import find_checkpoint
    from dougong.machine import this_machine

    weights = sum(path.stat().st_size for path in find_checkpoint(name).glob("*.safetensors"))
    available = this_machine().available_bytes
    if available is not None and weights > available:
        click.echo(
            f"{name} has {weights / 2**30:,.1f} GiB of weights and {available / 2**30:,.1f} GiB of "
            f"memory are available; --memory {max(int(available * 0.8 / 2**30), 1)}GiB would read "
            "missing experts faster than the system's paging does.",
            err=True,
        )


def choose_threads(threads: int | None, model: Model) -> None:
    """As many threads as asked for; else one for a small model, torch's choice for others."""
    if threads is None and model.num_parameters < SMALL_MODEL_PARAMETERS:
        threads = 1
    set_threads(threads)


def set_threads(threads: int | None) -> None:
    """Tells torch how many CPU threads to use; None leaves its own choice."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def emit(report: dict[str, Any], as_json: bool, text: str) -> None:
    """Prints the report: one JSON object if asked for, else the text.

    JSON has no word for infinity and NaN, so a report that holds one is a bug, not output.
    """
    click.echo(json.dumps(report, ensure_ascii=False, allow_nan=False) if as_json else text)


class Progress:
    """One line on stderr that tells how far a long command is; silent for the first two seconds.

    A terminal sees the line rewritten twice a second; a file or pipe gets a line every ten seconds.
    """

    def __init__(self, what: str, unit: str = "tokens") -> None:
        self.what, self.unit = what, unit
        self.start_s = time.monotonic()
        self.shown_s: float | None = None
        self.terminal = sys.stderr.isatty()

    def update(self, done: int, total: int) -> None:
        """Says that `done` of `total` units are done, if it is time to say so."""
        now = time.monotonic()
        elapsed_s = now - self.start_s
        wait_s = 0.5 if self.terminal else 10.0
        if (
            done == total
            or elapsed_s < 2.0
            or (self.shown_s is not None and now - self.shown_s < wait_s)
        ):
            return
        self.shown_s = now
        left_s = elapsed_s / max(done, 1) * (total - done)
        line = f"{self.what}: {done:,} of {total:,} {self.unit}, {left_s:.0f} s left"
        click.echo(f"\r{line}\x1b[K" if self.terminal else line, err=True, nl=not self.terminal)

    def close(self) -> None:
        """Clears the line."""
        if self.terminal and self.shown_s is not None:
            click.echo("\r\x1b[K", err=True, nl=False)
            self.shown_s = None
