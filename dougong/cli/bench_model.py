"""`dougong bench model`: prefill and decode speed, beside the limits that memory and disk set."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click

from dougong.cli import options
from dougong.cli.values import TokenCounts
from dougong.errors import InputError


@click.command("model")
@click.argument("model", metavar="MODEL|PRESET", default="m97")
@click.option(
    "--contexts",
    type=TokenCounts(),
    default="512,2k,8k",
    show_default=True,
    help="Tokens held when decoding is measured, after a prefill of as many.",
)
@click.option(
    "--steps", type=click.IntRange(min=1), default=40, show_default=True,
    help="Decode steps at each context; their median counts.",
)  # fmt: skip
@options.serving_backend_option
@options.fallback_option
@options.serving_dtype_option
@options.serving_rounding_option
@options.memory_option
@options.threads_option
@click.option("--record", is_flag=True, help="Append the figures to bench/results.")
@options.json_option
def command(
    model: str, contexts: list[int], steps: int, record: bool, as_json: bool,
    memory: int | None, threads: int | None, **words: Any,
) -> None:  # fmt: skip
    """Measure a checkpoint, or random weights of a preset in the published formats.

    First every weight is touched and something computed, so that no figure holds page faults.
    Prefill is in chunks of 1,024 tokens, from an empty state; up to 2,048 tokens the best of three
    counts. A step's weight bytes, counted call by call on backend cpu, over the rate of reading
    memory are the least time that it can take. 12 more steps are timed operator by operator:
    `scoring` is the indexer's reading of all index entries, `rest` the step without it.

    With --memory a step takes no less than reading its missing experts at the disk's rate, which
    is measured first, and no less than its arithmetic; prefill is then in chunks of 4,096.

    \b
    Examples:
      dougong bench model m97 --contexts 4k,256k --threads 2
      dougong bench model nano --dtype float32 --contexts 512
      dougong bench model ./flash4 --contexts 512 --memory 8GiB

    \b
    JSON: model, backend, dtype, rounding, threads, memory, figures (context, prefill_tokens_per_s,
    decode_tokens_per_s, operators (s of a step), weight_bytes (of a step), stream (B/s), of_limit,
    state_bytes (what the context takes in blocks), state_bytes_predicted (`model inspect`'s),
    resident_growth (B of the process); with --memory also prefill_bytes_read,
    bytes_read_per_token, disk (B/s), waited_s_per_token, of_disk_limit), recorded (files)
    """  # fmt: skip
    options.set_threads(threads)
    import torch

    from dougong.api import DTYPES
    from dougong.checkpoint.locate import find_checkpoint, shipped_names
    from dougong.cli.model_speed import measure
    from dougong.config import PRESETS
    from dougong.model.loading import load_model

    fallback = not words.pop("no_fallback")
    with tempfile.TemporaryDirectory() as folder:
        made = model in PRESETS and model not in shipped_names()
        place = random_checkpoint(model, Path(folder) / model) if made else find_checkpoint(model)
        how = options.chosen({"model": str(place), **words}) | {"model": model}
        loaded = load_model(
            place, dtype=DTYPES[how["dtype"]], backend=how["backend"], rounding=how["rounding"],
            fallback=fallback, memory_bytes=memory,
        )  # fmt: skip
        figures = measure(loaded, sorted(set(contexts)), steps)
    report: dict[str, Any] = {
        **how, "threads": torch.get_num_threads(), "memory": memory, "figures": figures,
    }  # fmt: skip
    report["recorded"] = keep(report) if record else []
    options.emit(report, as_json, describe(report))


def random_checkpoint(preset: str, folder: Path) -> Path:
    """Random weights of a preset in the published formats: FP4 experts, FP8 linears, BF16 rest."""
    from dougong.checkpoint.make import make_checkpoint
    from dougong.config import V4Config, load_config

    config = load_config(preset)
    if not isinstance(config, V4Config):
        raise InputError(f"{preset} is no V4 preset; backends are measured on V4 models.")
    return make_checkpoint(config, folder).folder


def describe(report: dict[str, Any]) -> str:
    """The figures as a table, then what they cost in bytes."""
    how = ", ".join(str(report[key]) for key in ("model", "backend", "dtype"))
    lines = [
        f"{how}, rounding {report['rounding']}, {report['threads']} threads",
        f"{'':>8}{'prefill':>9}{'decode':>9}{'scoring':>9}{'rest':>10}{'weights':>9}{'memory':>8}"
        f"{'of the limit':>15}",
        f"{'context':>8}{'tok/s':>9}{'tok/s':>9}{'ms':>9}{'ms':>10}{'MB':>9}{'GB/s':>8}",
    ]
    lines += [_line(row) for row in report["figures"]]
    for row in report["figures"]:
        grown = row["resident_growth"]
        lines.append(
            f"{row['context']:>8}: state {row['state_bytes'] / 1e6:.2f} MB, predicted "
            f"{row['state_bytes_predicted'] / 1e6:.2f} MB"
            + ("" if grown is None else f"; the process grew by {grown / 1e6:.2f} MB")
        )
        if "disk" in row:
            lines.append(
                f"{row['context']:>8}: {row['bytes_read_per_token'] / 1e6:.1f} MB read a token, "
                f"disk {row['disk'] / 1e9:.2f} GB/s, waited {row['waited_s_per_token'] * 1e3:.1f} "
                f"ms; {row['of_disk_limit']:.0%} of the limit that disk and arithmetic set"
            )
    return "\n".join(lines)


def scoring_s(row: dict[str, Any]) -> float:
    """Seconds of a step in which index entries are scored and the best selected."""
    seconds: float = row["operators"].get("index", 0.0)
    return seconds


def _line(row: dict[str, Any]) -> str:
    scoring, step = scoring_s(row), 1 / row["decode_tokens_per_s"]
    line = f"{row['context']:>8}{row['prefill_tokens_per_s']:>10.0f}"
    line += (
        f"{row['decode_tokens_per_s']:>10.1f}{scoring * 1e3:>7.2f}{(step - scoring) * 1e3:>6.2f}"
    )
    if row["of_limit"] is not None:
        line += f"{row['weight_bytes'] / 1e6:>9.1f}{row['stream'] / 1e9:>9.1f}"
        line += f"{row['of_limit']:>8.0%} ({1 / row['of_limit']:.2f}x)"
    return line


# What --record keeps of each context: a figure's key, its name and its unit.
KEPT = (
    ("prefill_tokens_per_s", "prefill", "token/s"),
    ("decode_tokens_per_s", "decode", "token/s"),
    ("of_limit", "decode_of_limit", "1"),
    ("state_bytes", "state_bytes", "B"),
    ("state_bytes_predicted", "state_bytes_predicted", "B"),
    ("bytes_read_per_token", "bytes_read_per_token", "B"),
    ("disk", "disk", "B/s"),
    ("of_disk_limit", "of_disk_limit", "1"),
)


def keep(report: dict[str, Any]) -> list[str]:
    """Appends the figures to bench/results; returns the files."""
    from dougong.plan.records import append_records, make_record

    contexts = ",".join(str(row["context"]) for row in report["figures"])
    name = Path(report["model"]).name.lower()
    typed = (
        f"dougong bench model {name} --backend {report['backend']} --dtype {report['dtype']} "
        f"--rounding {report['rounding']} --threads {report['threads']} --contexts {contexts}"
    )
    start = f"model.{name}.{report['backend']}.{report['dtype']}"
    start += (".release" if report["rounding"] == "release" else "") + f".t{report['threads']}"
    if report["memory"] is not None:
        typed += f" --memory {report['memory']}B"
        start += f".{report['memory'] / 2**30:.3g}gib"
    made = []
    for row in report["figures"]:
        figures = {named: (row.get(key), unit) for key, named, unit in KEPT}
        figures["scoring"] = scoring_s(row), "s"
        made += [
            make_record(f"{start}.{named}_{row['context']}", value, unit, typed)
            for named, (value, unit) in figures.items()
            if value is not None
        ]
    return [path.as_posix() for path in append_records(made, "model")]
