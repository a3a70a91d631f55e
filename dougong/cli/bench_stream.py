"""`dougong bench stream`: what this machine's memory and arithmetic can do at best."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import click

from dougong.cli import options

REPEATS = 10
PRODUCT = 1024  # rows and columns of the matrix products: large enough to reach the peak


@click.command("stream")
@click.option(
    "--megabytes",
    type=click.IntRange(8, 65536),
    default=256,
    show_default=True,
    help="Size of the array that is read; take it well above the last-level cache.",
)
@click.option(
    "--record",
    is_flag=True,
    help="Append the figures to bench/results: the planner then knows `this-machine`.",
)
@options.threads_option
@options.json_option
def command(megabytes: int, record: bool, threads: int | None, as_json: bool) -> None:
    """Measure memory bandwidth and matrix products: the two limits of every roofline.

    Each figure is the median of ten runs after a warm-up. With --record the planner can be asked
    about this machine: `dougong plan run nano --chip this-machine --count 1`.

    \b
    Example:
      dougong bench stream --record

    \b
    JSON: figures (name: value in B/s, B or FLOP/s), threads, recorded (files)
    """  # fmt: skip
    options.set_threads(threads)
    import torch

    figures = measure(megabytes * 10**6)
    recorded = keep(figures, megabytes) if record else []
    report = {"figures": figures, "threads": torch.get_num_threads(), "recorded": recorded}
    options.emit(report, as_json, describe(report))


def measure(size_bytes: int) -> dict[str, float]:
    """Bandwidth in B/s, memory in B and product rates in FLOP/s, under the planner's names."""
    from dougong.machine import this_machine

    progress = options.Progress("measuring", "figures")
    figures: dict[str, float] = {}
    tasks: list[tuple[str, Callable[[], float]]] = [("mem_bw", lambda: read_rate(size_bytes))]
    for name in ("fp32", "bf16", "int8"):
        tasks.append((name, lambda name=name: product_rate(name)))  # type: ignore[misc]
    for done, (name, task) in enumerate(tasks):
        progress.update(done, len(tasks))
        figures[name] = task()
    progress.close()
    memory_bytes = this_machine().memory_bytes
    if memory_bytes is not None:
        figures["mem"] = float(memory_bytes)
    return figures


def _median_seconds(work: Callable[[], object]) -> float:
    work()  # the first run pays for pages and caches
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return median(times)


def read_rate(size_bytes: int) -> float:
    """Bytes per second that a sum over one large array reads."""
    import torch

    values = torch.ones(size_bytes // 4, dtype=torch.float32)
    return values.nbytes / _median_seconds(values.sum)


def product_rate(name: str) -> float:
    """FLOP per second of a square product in fp32, bf16 or int8 (2 per multiply-add)."""
    import torch

    generator = torch.Generator().manual_seed(0)
    shape = (PRODUCT, PRODUCT)
    if name == "int8":
        left = torch.randint(-127, 127, shape, generator=generator, dtype=torch.int8)
        seconds = _median_seconds(lambda: torch._int_mm(left, left))
    else:
        dtype = torch.float32 if name == "fp32" else torch.bfloat16
        factor = torch.randn(shape, generator=generator).to(dtype)
        seconds = _median_seconds(lambda: factor @ factor)
    return 2 * PRODUCT**3 / seconds


def keep(figures: dict[str, float], megabytes: int) -> list[str]:
    """Appends the figures to bench/results; returns the files."""
    from dougong.plan.records import append_records, make_record

    command_line = f"dougong bench stream --megabytes {megabytes}"
    units = {"mem_bw": "B/s", "mem": "B"}
    made = [
        make_record(f"machine.{name}", value, units.get(name, "FLOP/s"), command_line)
        for name, value in figures.items()
    ]
    return [path.as_posix() for path in append_records(made, "stream")]


def describe(report: dict[str, Any]) -> str:
    """The figures for a person."""
    figures = report["figures"]
    lines = [f"with {report['threads']} threads:"]
    lines += [f"  memory read   {figures['mem_bw'] / 1e9:>10,.1f} GB/s"]
    for name in ("fp32", "bf16", "int8"):
        lines.append(f"  {name} product  {figures[name] / 1e9:>10,.0f} GFLOP/s")
    if "mem" in figures:
        lines.append(f"  memory        {figures['mem'] / 1e9:>10,.1f} GB")
    return "\n".join(lines + [f"recorded in {path}" for path in report["recorded"]])
