"""`dougong bench train`: training steps beside transformers', and what recomputation costs."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import click

from dougong.cli import options
from dougong.errors import InputError

if TYPE_CHECKING:
    from dougong.config import V4Config
    from dougong.train.speed import Figures, Task

TARGETS = {"float32": 2.0, "bfloat16": 3.0}  # times transformers' speed in float32
RATES = {"float32": "fp32", "bfloat16": "bf16"}  # what `bench stream` calls them


@click.command("train")
@click.argument("model", metavar="PRESET|CONFIG", default="m97")
@click.option(
    "--samples", type=click.IntRange(min=1), default=2, show_default=True, help="Of each step."
)
@click.option(
    "--tokens", type=click.IntRange(min=16), default=512, show_default=True, help="Of each sample."
)
@click.option(
    "--steps", type=click.IntRange(min=1), default=5, show_default=True,
    help="Steps of each system after one that warms up.",
)  # fmt: skip
@click.option(
    "--peer/--no-peer", default=True, show_default=True,
    help="Measure transformers beside it (pip install 'dougong[bench]').",
)  # fmt: skip
@click.option("--record", is_flag=True, help="Append the figures to bench/results.")
@options.threads_option
@options.json_option
def command(
    model: str, samples: int, tokens: int, steps: int, peer: bool, record: bool,
    threads: int | None, as_json: bool,
) -> None:  # fmt: skip
    """Measure training steps: forward, backward and AdamW on random tokens, on the CPU.

    Float32, and bfloat16 operands with float32 weights and sums; beside them transformers'
    DeepseekV4ForCausalLM doing the same work (bfloat16 by autocast). Each runs in a process of its
    own, one step in turn; the fastest counts, and speed-ups are medians over the rounds, against
    transformers in float32. Then every policy of recomputation in turn. Of a step's memory the
    tensors are counted, gradients included and weights left out; of the process, its peak.

    Utilization: 6 FLOP for each weight and token, and attention, a second, over the faster of
    torch's and our own large product in that dtype.

    \b
    Example:
      dougong bench train m97 --threads 2 --record

    \b
    JSON: model, samples, tokens, threads, step_flops, peak (FLOP/s by products), speed and
    recompute (rows: system, products, recompute, seconds, tokens_per_s, utilization, step_bytes,
    peak_bytes, times_peer (null without one), target, met), recorded (files)
    """  # fmt: skip
    options.set_threads(threads)
    import torch

    from dougong.config import V4Config, load_config
    from dougong.kernels.recompute import POLICIES
    from dougong.train.speed import Task, take_turns

    config = load_config(model)
    if not isinstance(config, V4Config):
        raise InputError(f"{model} is no V4 model; only those are trained.")
    shape = (model, samples, tokens)
    report: dict[str, Any] = {
        "model": model, "samples": samples, "tokens": tokens, "threads": torch.get_num_threads(),
        "step_flops": step_flops(config, samples, tokens),
        "peak": {products: product_rate(products) for products in TARGETS},
    }  # fmt: skip
    own = report["threads"]
    tasks = [Task("dougong", *shape, products, own) for products in TARGETS]
    if peer:
        tasks += [Task("transformers", *shape, products, own) for products in TARGETS]
    policies = [Task("dougong", *shape, "float32", own, policy) for policy in POLICIES]
    for name, turns in (("speed", tasks), ("recompute", policies)):
        report[name] = rows_of(turns, take_turns(turns, steps), report)
    report["recorded"] = keep(report) if record else []
    options.emit(report, as_json, describe(report))


def step_flops(config: V4Config, samples: int, tokens: int) -> float:
    """FLOPs of a step: three times those of the forward pass, indexers left out."""
    from dougong.plan.flops import decode_flops
    from dougong.plan.weights import main_weights

    indexers = sum(
        2 * weight.active_parameters
        for weight in main_weights(config)
        if weight.is_matmul and weight.name.startswith("indexer.")
    )
    parts = [decode_flops(config, n) for n in range(1, tokens + 1)]
    return float(3 * samples * sum(part.linear - indexers + part.attention for part in parts))


def product_rate(products: str) -> float:
    """FLOP a second of the faster of torch's and our own square product."""
    import torch

    from dougong.cli import bench_stream
    from dougong.cli.bench_kernels import best_seconds
    from dougong.kernels.training.products import matmul
    from dougong.train.run import training_backend

    size, theirs = bench_stream.PRODUCT, bench_stream.product_rate(RATES[products])
    if training_backend(torch.device("cpu"), "float32") == "reference":
        return theirs
    a, b, c = (torch.randn(size, size) for _ in range(3))
    training_backend(torch.device("cpu"), products)
    seconds = best_seconds({"ours": lambda: matmul(a, b, c)})["ours"]
    return max(theirs, 2 * size**3 / seconds)


def rows_of(
    tasks: list[Task], turns: list[list[Figures]], report: dict[str, Any]
) -> list[dict[str, Any]]:
    """One row for each task."""
    peers = [
        figures for task, figures in zip(tasks, turns, strict=True)
        if (task.system, task.products) == ("transformers", "float32")
    ]  # fmt: skip
    rows = []
    for task, figures in zip(tasks, turns, strict=True):
        seconds = min(figure.seconds for figure in figures)
        row: dict[str, Any] = {
            "system": task.system, "products": task.products, "recompute": task.recompute,
            "seconds": seconds, "tokens_per_s": task.samples * task.tokens / seconds,
            "utilization": report["step_flops"] / seconds / report["peak"][task.products],
            "step_bytes": figures[-1].step_bytes, "peak_bytes": figures[-1].peak_bytes,
            "times_peer": None, "target": None, "met": None,
        }  # fmt: skip
        if peers and task.system == "dougong":
            pairs = zip(peers[0], figures, strict=True)
            row["times_peer"] = median(theirs.seconds / ours.seconds for theirs, ours in pairs)
            if (Path(task.model).name, task.samples, task.tokens) == ("m97", 2, 512):
                row["target"] = TARGETS[task.products]
                row["met"] = row["times_peer"] >= row["target"]
        rows.append(row)
    return rows


def describe(report: dict[str, Any]) -> str:
    """The figures as a table."""
    peaks = ", ".join(f"{name} {rate / 1e9:.0f}" for name, rate in report["peak"].items())
    lines = [
        f"{report['model']}, {report['samples']} x {report['tokens']} tokens, "
        f"{report['threads']} threads, {report['step_flops'] / 1e9:.0f} GFLOP a step; "
        f"products at most {peaks} GFLOP/s",
        f"{'system':<14}{'products':<10}{'recompute':<11}{'tok/s':>7}{'used':>6}{'of peer':>9}"
        f"{'target':>8}{'tensors MB':>12}{'process MB':>12}",
    ]
    for row in [*report["speed"], *report["recompute"]]:
        times = "" if row["times_peer"] is None else f"{row['times_peer']:.2f}x"
        target = "" if row["target"] is None else f"{row['target']:.1f}"
        missed = "  missed" if row["met"] is False else ""
        lines.append(
            f"{row['system']:<14}{row['products']:<10}{row['recompute']:<11}"
            f"{row['tokens_per_s']:>7.0f}{row['utilization']:>6.0%}{times:>9}{target:>8}"
            f"{row['step_bytes'] / 1e6:>12.0f}{row['peak_bytes'] / 1e6:>12.0f}{missed}"
        )
    return "\n".join([*lines, *(f"recorded in {path}" for path in report["recorded"])])


def keep(report: dict[str, Any]) -> list[str]:
    """Appends the figures to bench/results; returns the files."""
    from dougong.plan.records import append_records, make_record

    typed = (
        f"dougong bench train {report['model']} --samples {report['samples']} "
        f"--tokens {report['tokens']} --threads {report['threads']}"
    )
    model = Path(report["model"]).stem.lower()
    start = f"train.{model}.{report['samples']}x{report['tokens']}.t{report['threads']}"
    figures: dict[str, tuple[float, str]] = {}
    for row in report["speed"]:
        name = f"{start}.{row['system']}.{row['products']}"
        figures[f"{name}.speed"] = row["tokens_per_s"], "token/s"
        figures[f"{name}.utilization"] = row["utilization"], "1"
        figures[f"{name}.peak_bytes"] = row["peak_bytes"], "B"
        if row["times_peer"] is not None:
            figures[f"{name}.times_transformers"] = row["times_peer"], "1"
    for row in report["recompute"]:
        name = f"recompute.{row['recompute']}.{model}"
        figures[f"{name}.step"] = row["seconds"], "s"
        figures[f"{name}.step_bytes"] = row["step_bytes"], "B"
        figures[f"{name}.peak_bytes"] = row["peak_bytes"], "B"
    made = [make_record(name, value, unit, typed) for name, (value, unit) in figures.items()]
    return [path.as_posix() for path in append_records(made, "train")]
