"""`dougong bench kernels`: backend cpu's matrix products beside memory's rate and torch's."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from dougong.cli import options
from dougong.errors import InputError

if TYPE_CHECKING:
    from dougong.kernels.stored import StoredMatrix

CYCLED_BYTES = 300 * 10**6  # of copies of a matrix, so that no cache holds the next one
REPEATS = 7
NAMES = {"I8": "fp4", "F8_E4M3": "fp8", "BF16": "bf16", "F32": "fp32"}
SHAPE = re.compile(r"(\d+)x(\d+)")


@click.command("kernels")
@click.option(
    "--shape",
    "shapes",
    multiple=True,
    default=("4096x4096", "7168x2048"),
    show_default=True,
    metavar="OUTxIN",
    help="Matrices to multiply by; may be repeated.",
)
@click.option(
    "--rows",
    multiple=True,
    type=click.IntRange(min=1),
    default=(1, 17, 128, 512),
    show_default=True,
    help="Rows of x; may be repeated.",
)
@click.option("--record", is_flag=True, help="Append the figures to bench/results.")
@options.threads_option
@options.json_option
def command(
    shapes: tuple[str, ...], rows: tuple[int, ...], record: bool, threads: int | None, as_json: bool
) -> None:
    """Measure linear in every weight format, bf16 and float32 arithmetic.

    One row is limited by memory: its figure is the bytes of weights and scales a second, beside
    what reading memory reaches. Many rows are limited by arithmetic: FLOP a second, beside torch's
    on dense weights of the same dtype. Best of seven; copies of a matrix go round for one row.

    \b
    Example:
      dougong bench kernels --threads 2 --record

    \b
    JSON: path, threads, stream (B/s), products (shape, format, dtype, rows, seconds, bytes_per_s,
    flops_per_s, of_stream, of_torch), recorded (files)
    """  # fmt: skip
    options.set_threads(threads)
    import torch

    from dougong.kernels.cpu.library import instruction_path

    for shape in shapes:
        if not SHAPE.fullmatch(shape):
            raise InputError(f"--shape {shape}: write rows x columns such as 4096x4096.")
    stream = stream_rate()
    products = [row for shape in shapes for row in measure(shape, rows, stream)]
    report: dict[str, Any] = {
        "path": instruction_path(),
        "threads": torch.get_num_threads(),
        "stream": stream,
        "products": products,
    }
    report["recorded"] = keep(report) if record else []
    options.emit(report, as_json, describe(report))


def best_seconds(works: Sequence[Callable[[], object]]) -> float:
    """The shortest time of one call, the calls going round."""
    best = float("inf")
    for _ in range(REPEATS):
        for work in works:
            start = time.perf_counter()
            work()
            best = min(best, time.perf_counter() - start)
    return best


def mean_seconds(works: Sequence[Callable[[], object]]) -> float:
    """The mean time of one call in the best of several rounds over all of them."""
    rounds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        for work in works:
            work()
        rounds.append(time.perf_counter() - start)
    return min(rounds) / len(works)


def stream_rate(size_bytes: int = 256 * 2**20) -> float:
    """Bytes a second that reading a large array reaches with these threads."""
    import numpy as np

    from dougong.kernels.cpu.library import library

    array = np.ones(size_bytes, np.uint8)
    return size_bytes / best_seconds([lambda: library().dg_stream(array.ctypes.data, size_bytes)])


def random_matrix(dtype: str, rows: int, columns: int, seed: int) -> StoredMatrix:
    """Random bits in a stored format."""
    import numpy as np

    from dougong.kernels.stored import StoredMatrix

    generator = np.random.default_rng(seed)
    if dtype in ("F32", "BF16"):
        values = generator.standard_normal((rows, columns), dtype=np.float32)
        bits = (values.view(np.uint32) >> 16).astype(np.uint16)
        return StoredMatrix(dtype, [values if dtype == "F32" else bits])
    width = columns // 2 if dtype == "I8" else columns
    codes = generator.integers(0, 256, (rows, width), dtype=np.uint8)
    codes[(codes & 0x7F) == 0x7F] = 0
    shape = (rows, columns // 32) if dtype == "I8" else (-(-rows // 128), -(-columns // 128))
    return StoredMatrix(dtype, [codes], [generator.integers(118, 124, shape, dtype=np.uint8)])


def measure(shape: str, rows: tuple[int, ...], stream: float) -> list[dict[str, Any]]:
    """Every format, dtype and number of rows on one shape."""
    import torch
    import torch.nn.functional as F

    from dougong.kernels.cpu.products import linear

    found = SHAPE.fullmatch(shape)
    assert found
    size_out, size_in = int(found[1]), int(found[2])
    results = []
    for dtype in (torch.bfloat16, torch.float32):
        dense = torch.randn(size_out, size_in).to(dtype)
        inputs = {n: torch.randn(n, size_in).to(dtype) for n in rows}
        theirs = {n: best_seconds([partial(F.linear, x, dense)]) for n, x in inputs.items()}
        for stored in NAMES:
            if stored == "F32" and dtype == torch.bfloat16:
                continue  # bf16 models hold no float32 matrices of this size
            one = random_matrix(stored, size_out, size_in, 0)
            copies = range(1, CYCLED_BYTES // one.nbytes + 1)
            cycle = [one, *(random_matrix(stored, size_out, size_in, i) for i in copies)]
            for n, x in inputs.items():
                matrices = cycle if n == 1 else cycle[:1]
                works = [partial(linear, x, w) for w in matrices]
                seconds = mean_seconds(works) if n == 1 else best_seconds(works)
                results.append({
                    "shape": shape, "format": NAMES[stored],
                    "dtype": str(dtype).removeprefix("torch."), "rows": n, "seconds": seconds,
                    "bytes_per_s": one.nbytes / seconds,
                    "flops_per_s": 2 * n * size_out * size_in / seconds,
                    "of_stream": one.nbytes / seconds / stream,
                    "of_torch": theirs[n] / seconds,
                })  # fmt: skip
    return results


def describe(report: dict[str, Any]) -> str:
    """The figures as a table."""
    lines = [
        f"path {report['path']}, {report['threads']} threads, "
        f"memory {report['stream'] / 1e9:.1f} GB/s",
        f"{'shape':<12}{'format':<8}{'dtype':<10}{'rows':>5}{'GB/s':>8}{'memory':>8}"
        f"{'GFLOP/s':>9}{'torch':>7}",
    ]
    lines += [
        f"{row['shape']:<12}{row['format']:<8}{row['dtype']:<10}{row['rows']:>5}"
        f"{row['bytes_per_s'] / 1e9:>8.1f}{row['of_stream']:>8.0%}"
        f"{row['flops_per_s'] / 1e9:>9.0f}{row['of_torch']:>6.2f}x"
        for row in report["products"]
    ]
    return "\n".join(lines)


def keep(report: dict[str, Any]) -> list[str]:
    """Appends the figures to bench/results; returns the files."""
    from dougong.plan.records import append_records, make_record

    typed = f"dougong bench kernels --threads {report['threads']}"
    made = [make_record(f"kernels.cpu.stream_t{report['threads']}", report["stream"], "B/s", typed)]
    for row in report["products"]:
        name = (
            f"kernels.cpu.linear.{row['shape']}.{row['format']}.{row['dtype']}."
            f"rows{row['rows']}.t{report['threads']}"
        )
        one = row["rows"] == 1
        made.append(
            make_record(
                name,
                row["bytes_per_s" if one else "flops_per_s"],
                "B/s" if one else "FLOP/s",
                typed,
            )
        )
        share = "of_stream" if one else "of_torch"
        made.append(make_record(f"{name}.{share}", row[share], "1", typed))
    return [path.as_posix() for path in append_records(made, "kernels")]
