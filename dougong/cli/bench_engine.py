"""`dougong bench engine`: what the engine adds to a step, and what it saves."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from dougong.cli import options
from dougong.cli.values import TOKENS
from dougong.errors import InputError

PARTS = ("steps", "requests", "turns", "drafts")  # and "long", which takes longer than all


@click.command("engine")
@click.argument("model", metavar="MODEL|PRESET", default="m97")
@click.option(
    "--part", "parts", type=click.Choice((*PARTS, "long")), multiple=True,
    help="Measure only this; may be given several times. [default: everything but long]",
)  # fmt: skip
@click.option(
    "--steps", type=click.IntRange(min=1), default=200, show_default=True,
    help="Steps in either order, of the engine and of the bare model.",
)  # fmt: skip
@click.option(
    "--requests", type=click.IntRange(min=1), default=64, show_default=True,
    help="How many requests are there at once.",
)  # fmt: skip
@click.option(
    "--new-tokens", type=TOKENS, default=128, show_default=True,
    help="Tokens that each of them writes.",
)  # fmt: skip
@click.option(
    "--conversation", type=TOKENS, default="16k", show_default=True,
    help="Tokens of the conversation whose second turn is timed.",
)  # fmt: skip
@click.option(
    "--long", "long_tokens", type=TOKENS, default="1M", show_default=True,
    help="Tokens of the long prompt.",
)  # fmt: skip
@click.option(
    "--trace", type=click.Path(path_type=Path), default=None, metavar="FILE",
    help="Write every step and request for a browser's trace viewer.",
)  # fmt: skip
@options.serving_backend_option
@options.fallback_option
@options.serving_dtype_option
@options.serving_rounding_option
@options.threads_option
@click.option("--record", is_flag=True, help="Append the figures to bench/results.")
@options.json_option
def command(
    model: str, parts: tuple[str, ...], steps: int, requests: int, new_tokens: int,
    conversation: int, long_tokens: int, trace: Path | None, threads: int | None, record: bool,
    as_json: bool, **words: Any,
) -> None:  # fmt: skip
    """Measure the engine on a checkpoint, or on random weights of a preset.

    steps: decode steps of 1 and 32 requests beside the same steps of the bare model (layers and
    logits), in turn, each one first half of the times; greedy, no drafts. The median difference may
    be 5 % or 100 us.
    requests: prompts of 50 to 4,000 random tokens, all there at once, an empty cache, no drafts.
    turns: the time to the first token of a conversation, and of its second turn (64 more tokens):
    from the cache in memory, then in an engine started anew over the same disk.
    drafts: the default drafts beside none, one request, on a phrase repeated 40 times whose tokens
    a bias keeps likely, greedy, and on random text with temperature 1; the best of three runs.
    long: one prompt, its states in a mapped file, 64 MiB of resume points: its time beside the
    engine's estimate, and how far the process grew. Weights are warm everywhere.

    \b
    Examples:
      dougong bench engine nano --part steps --threads 1
      dougong bench engine m97 --part requests --requests 16 --trace steps.json

    \b
    JSON: model, backend, dtype, rounding, threads, steps (batch, bare_s, engine_s, overhead_s,
    allowed_s), requests (requests, prompt_tokens, new_tokens, seconds, tokens_per_s, steps,
    stage_s), turns (conversation, cold_s, memory_s, disk_s, memory_of_cold, disk_of_cold,
    cached_tokens (from memory, from disk)), drafts (text, plain_tokens_per_s,
    drafted_tokens_per_s, times, drafted, accepted), long (tokens, estimate_s, seconds, of_estimate,
    state_bytes, grown_bytes); null for a part that was not asked for; recorded (files)
    """  # fmt: skip
    wanted = set(parts or PARTS)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        loaded, how = _load(model, folder, threads, words)
        import torch

        from dougong.cli.engine_speed import Bench
        from dougong.engine.trace import Trace

        bench = Bench(loaded, None, None if trace is None else stack.enter_context(Trace(trace)))
        report: dict[str, Any] = {
            **how, "threads": torch.get_num_threads(),
            "steps": bench.steps(steps) if "steps" in wanted else None,
            "requests": bench.requests(requests, new_tokens) if "requests" in wanted else None,
            "turns": bench.turns(conversation, folder / "state") if "turns" in wanted else None,
            "drafts": bench.drafts() if "drafts" in wanted else None,
            "long": bench.long(long_tokens, folder) if "long" in wanted else None,
        }  # fmt: skip
    report["recorded"] = keep(report) if record else []
    options.emit(report, as_json, describe(report))


def _load(
    model: str, folder: Path, threads: int | None, words: dict[str, Any]
) -> tuple[Any, dict[str, str]]:
    """The model's layers, and how they compute."""
    options.set_threads(threads)
    from dougong.api import DTYPES
    from dougong.checkpoint.locate import find_checkpoint, shipped_names
    from dougong.cli.bench_model import random_checkpoint
    from dougong.config import PRESETS, V3Config, load_config
    from dougong.model.loading import load_model

    fallback = not words.pop("no_fallback")
    made = model in PRESETS and model not in shipped_names()
    place = random_checkpoint(model, folder / model) if made else find_checkpoint(model)
    if isinstance(load_config(place), V3Config):
        raise InputError(f"{model} is a V3 model; the engine runs V4 models only.")
    how = options.chosen({"model": str(place), **words}) | {"model": model}
    loaded = load_model(
        place, dtype=DTYPES[how["dtype"]], backend=how["backend"], rounding=how["rounding"],
        fallback=fallback,
    )  # fmt: skip
    return loaded, how


def describe(report: dict[str, Any]) -> str:
    """Each part's figures beside what they are compared with."""
    how = ", ".join(str(report[key]) for key in ("model", "backend", "dtype"))
    lines = [f"{how}, rounding {report['rounding']}, {report['threads']} threads"]
    for row in report["steps"] or []:
        lines.append(
            f"batch {row['batch']:>2}: bare step {row['bare_s'] * 1e6:,.0f} us, engine's "
            f"{row['engine_s'] * 1e6:,.0f} us; overhead {row['overhead_s'] * 1e6:,.0f} us, "
            f"{row['allowed_s'] * 1e6:,.0f} us allowed"
        )
    if row := report["requests"]:
        lines.append(
            f"{row['requests']} requests, {row['prompt_tokens']:,} prompt tokens: "
            f"{row['new_tokens']:,} tokens in {row['seconds']:.1f} s, "
            f"{row['tokens_per_s']:.1f} tok/s"
        )
    if row := report["turns"]:
        lines.append(
            f"first token of {row['conversation']:,} tokens: {row['cold_s']:.3f} s; of the second "
            f"turn from memory {row['memory_s'] * 1e3:.1f} ms ({row['memory_of_cold']:.2%}), from "
            f"disk after a restart {row['disk_s'] * 1e3:.1f} ms ({row['disk_of_cold']:.2%})"
        )
    for row in report["drafts"] or []:
        lines.append(
            f"{row['text']}: {row['plain_tokens_per_s']:.1f} tok/s, with drafts "
            f"{row['drafted_tokens_per_s']:.1f} ({row['times']:.2f}x), {row['accepted']} of "
            f"{row['drafted']} drafts right"
        )
    if row := report["long"]:
        lines.append(
            f"a prompt of {row['tokens']:,} tokens: {row['seconds']:,.1f} s, "
            f"{row['of_estimate']:.2f} of the estimate; states {row['state_bytes'] / 2**20:,.0f} "
            f"MiB, the process grew by {row['grown_bytes'] / 2**20:,.0f} MiB"
        )
    return "\n".join(lines)


def keep(report: dict[str, Any]) -> list[str]:
    """Appends the figures to bench/results; returns the files."""
    from dougong.plan.records import append_records, make_record

    name = Path(report["model"]).name.lower()
    typed = (
        f"dougong bench engine {name} --backend {report['backend']} --dtype {report['dtype']} "
        f"--rounding {report['rounding']} --threads {report['threads']}"
    )
    start = f"engine.{name}.{report['backend']}.{report['dtype']}"
    start += (".release" if report["rounding"] == "release" else "") + f".t{report['threads']}"
    figures: list[tuple[str, float, str]] = []
    for row in report["steps"] or []:
        for key in ("bare_s", "overhead_s"):
            figures.append((f"step_{key[:-2]}_{row['batch']}", row[key], "s"))
    if row := report["requests"]:
        figures.append((f"requests_{row['requests']}", row["tokens_per_s"], "token/s"))
    if row := report["turns"]:
        for key in ("cold_s", "memory_s", "disk_s"):
            figures.append((f"turn_{key[:-2]}_{row['conversation']}", row[key], "s"))
    for row in report["drafts"] or []:
        figures.append((f"drafts_{row['text'].replace(' ', '_')}", row["times"], "1"))
    if row := report["long"]:
        figures += [
            (f"long_{row['tokens']}", row["seconds"], "s"),
            (f"long_estimate_{row['tokens']}", row["estimate_s"], "s"),
            (f"long_grown_{row['tokens']}", row["grown_bytes"], "B"),
        ]
    made = [make_record(f"{start}.{key}", value, unit, typed) for key, value, unit in figures]
    return [path.as_posix() for path in append_records(made, "engine")]
