"""`dougong bench kernels`: backend cpu's matrix products beside memory's rate and torch's."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from dougong.cli import options
from dougong.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from dougong.kernels.stored import StoredMatrix

CYCLED_BYTES = 300 * 10**6  # of copies of a matrix, so that no cache holds the next one
REPEATS = 7
# Formats as they are called here, and what StoredMatrix calls them.
FORMATS = {
    "fp4": "I8",
    "fp8": "F8_E4M3",
    "fp8-fp32": "F8_E4M3",
    "int8": "INT8",
    "int8-g128": "INT8",
    "bf16": "BF16",
    "fp32": "F32",
}
SHAPE = re.compile(r"(\d+)x(\d+)")
# What is wanted: of memory's rate for one row by the number of threads, of torch's rate for others.
ONE_ROW = {1: 0.60, 2: 0.85}
ONE_ROW_FORMATS = ("fp4", "fp8")
ROWS = {17: 1.40, 128: 0.85, 512: 0.90, 2048: 0.90}
ROWS_FORMATS = ("fp4", "fp8", "bf16")
FLOAT32, FLOAT32_FORMATS = 1.80, (*ROWS_FORMATS, "fp32")


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
    default=(1, 17, 128, 512, 2048),
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
    what reading memory reaches. Many rows are limited by arithmetic: FLOP a second, beside the
    better of torch's two forms of a product with dense weights of the same dtype. All that is
    compared takes turns, best of seven; copies of a matrix go round for one row, one recorded
    call after the other as in a decode step.

    \b
    Example:
      dougong bench kernels --threads 2 --record

    \b
    JSON: path, threads, stream (B/s), products (shape, format, dtype, rows, seconds, bytes_per_s,
    flops_per_s, of_stream, of_torch (null for one row), target and whether it is met (null where
    there is none)), recorded (files)
    """  # fmt: skip
    options.set_threads(threads)
    import torch

    from dougong.kernels.cpu.library import instruction_path

    for shape in shapes:
        if not SHAPE.fullmatch(shape):
            raise InputError(f"--shape {shape}: write rows x columns such as 4096x4096.")
    products = [row for shape in shapes for row in measure(shape, rows)]
    report: dict[str, Any] = {
        "path": instruction_path(),
        "threads": torch.get_num_threads(),
        "stream": stream_rate(),
        "products": products,
    }
    report["recorded"] = keep(report) if record else []
    options.emit(report, as_json, describe(report))


def best_seconds(works: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """The shortest time of each, all taking turns."""
    best = dict.fromkeys(works, float("inf"))
    for _ in range(REPEATS):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def stream_work(size_bytes: int) -> Callable[[], object]:
    """Reads so much memory once, with all threads."""
    import numpy as np

    from dougong.kernels.cpu.library import library

    array = np.ones(size_bytes, np.uint8)
    return lambda: (library().dg_stream(array.ctypes.data, size_bytes), array)


def stream_rate(size_bytes: int = 256 * 2**20) -> float:
    """Bytes a second that reading a large array reaches with these threads."""
    return size_bytes / best_seconds({"stream": stream_work(size_bytes)})["stream"]


def random_matrix(format_: str, rows: int, columns: int, seed: int) -> StoredMatrix:
    """Random bits in one of `FORMATS`."""
    import numpy as np

    from dougong.kernels.stored import StoredMatrix

    generator, dtype = np.random.default_rng(seed), FORMATS[format_]
    if dtype in ("F32", "BF16"):
        values = generator.standard_normal((rows, columns), dtype=np.float32)
        bits = (values.view(np.uint32) >> 16).astype(np.uint16)
        return StoredMatrix(dtype, [values if dtype == "F32" else bits])
    width = columns // 2 if dtype == "I8" else columns
    codes = generator.integers(0, 256, (rows, width), dtype=np.uint8)
    if dtype == "INT8":
        group = 128 if format_ == "int8-g128" else 0
        scale = generator.random((rows, -(-columns // group) if group else 1), dtype=np.float32)
        return StoredMatrix(dtype, [codes.view(np.int8)], [scale], group=group)
    codes[(codes & 0x7F) == 0x7F] = 0
    shape = (rows, columns // 32) if dtype == "I8" else (-(-rows // 128), -(-columns // 128))
    if format_ == "fp8-fp32":
        return StoredMatrix(dtype, [codes], [generator.random(shape, dtype=np.float32)])
    return StoredMatrix(dtype, [codes], [generator.integers(118, 124, shape, dtype=np.uint8)])


def measure(shape: str, rows: tuple[int, ...]) -> list[dict[str, Any]]:
    """Every format, dtype and number of rows on one shape."""
    import torch

    found = SHAPE.fullmatch(shape)
    assert found
    size_out, size_in = int(found[1]), int(found[2])
    results = []
    for dtype in (torch.bfloat16, torch.float32):
        # bf16 models hold no float32 matrices of this size
        formats = [name for name in FORMATS if name != "fp32" or dtype == torch.float32]
        for n in rows:
            x = torch.randn(n, size_in).to(dtype)
            timed = one_row(x, size_out, formats) if n == 1 else many_rows(x, size_out, formats)
            for name, row in timed.items():
                flops = 2 * n * size_out * size_in
                known = {"shape": shape, "format": name, "rows": n}
                known["dtype"] = str(dtype).removeprefix("torch.")
                row |= known | {"flops_per_s": flops / row["seconds"]}
                results.append(row | judge(row, torch.get_num_threads()))
    return results


def one_row(x: Tensor, size_out: int, formats: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Seconds, bytes a second and their share of memory's rate, by format."""
    from dougong.kernels.cpu.products import linear
    from dougong.kernels.cpu.program import Program, recording

    stream_bytes = 256 * 2**20
    timed: dict[str, dict[str, Any]] = {}
    stream = stream_work(stream_bytes)
    for name in formats:
        first = random_matrix(name, size_out, x.shape[1], 0)
        copies = range(1, CYCLED_BYTES // first.nbytes + 1)
        cycle = [first, *(random_matrix(name, size_out, x.shape[1], i) for i in copies)]
        with recording(Program(1)) as program:
            for matrix in cycle:
                linear(x, matrix)
        best = best_seconds({"ours": partial(program.run, 1, 0), "stream": stream})
        seconds = best["ours"] / len(cycle)
        rate = first.nbytes / seconds
        of_stream = rate * best["stream"] / stream_bytes
        timed[name] = {
            "seconds": seconds, "bytes_per_s": rate, "of_stream": of_stream, "of_torch": None,
        }  # fmt: skip
    return timed


def many_rows(x: Tensor, size_out: int, formats: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Seconds, bytes a second and torch's time over ours, by format."""
    import torch
    import torch.nn.functional as F

    from dougong.kernels.cpu.products import linear

    dense = torch.randn(size_out, x.shape[1]).to(x.dtype)
    turned = dense.t().contiguous()
    matrices = {name: random_matrix(name, size_out, x.shape[1], 0) for name in formats}
    works: dict[str, Callable[[], object]] = {
        "torch linear": partial(F.linear, x, dense),
        "torch matmul": partial(torch.mm, x, turned),
    }
    works |= {name: partial(linear, x, matrix) for name, matrix in matrices.items()}
    best = best_seconds(works)
    theirs = min(best["torch linear"], best["torch matmul"])
    return {
        name: {
            "seconds": best[name], "bytes_per_s": matrix.nbytes / best[name], "of_stream": None,
            "of_torch": theirs / best[name],
        }
        for name, matrix in matrices.items()
    }  # fmt: skip


def judge(row: Mapping[str, Any], threads: int) -> dict[str, Any]:
    """The target of a product, if there is one, and whether it is met."""
    wanted = None
    if row["rows"] == 1 and row["format"] in ONE_ROW_FORMATS and row["dtype"] == "bfloat16":
        wanted = ONE_ROW.get(threads)
    elif row["dtype"] == "bfloat16" and row["format"] in ROWS_FORMATS:
        wanted = ROWS.get(row["rows"])
    elif row["dtype"] == "float32" and row["rows"] > 1 and row["format"] in FLOAT32_FORMATS:
        wanted = FLOAT32
    reached = row["of_stream"] if row["rows"] == 1 else row["of_torch"]
    return {"target": wanted, "met": None if wanted is None else reached >= wanted}


def describe(report: dict[str, Any]) -> str:
    """The figures as a table."""
    lines = [
        f"path {report['path']}, {report['threads']} threads, "
        f"memory {report['stream'] / 1e9:.1f} GB/s",
        f"{'shape':<12}{'format':<11}{'dtype':<10}{'rows':>5}{'GB/s':>8}{'memory':>8}"
        f"{'GFLOP/s':>9}{'torch':>7}{'target':>8}",
    ]
    for row in report["products"]:
        memory = "" if row["of_stream"] is None else f"{row['of_stream']:.0%}"
        torch = "" if row["of_torch"] is None else f"{row['of_torch']:.2f}x"
        target = "" if row["target"] is None else f"{row['target']:.2f}"
        missed = "  missed" if row["met"] is False else ""
        lines.append(
            f"{row['shape']:<12}{row['format']:<11}{row['dtype']:<10}{row['rows']:>5}"
            f"{row['bytes_per_s'] / 1e9:>8.1f}{memory:>8}{row['flops_per_s'] / 1e9:>9.0f}"
            f"{torch:>7}{target:>8}{missed}"
        )
    return "\n".join(lines)


def keep(report: dict[str, Any]) -> list[str]:
    """Appends the figures to bench/results; returns the files."""
    from dougong.plan.records import append_records, make_record

    chosen = {f"--shape {row['shape']}" for row in report["products"]}
    chosen |= {f"--rows {row['rows']}" for row in report["products"]}
    typed = " ".join(["dougong bench kernels", *sorted(chosen), f"--threads {report['threads']}"])
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
