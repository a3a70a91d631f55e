"""`dougong model quantize`: experts and linears in other number formats, with what that costs."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dougong.cli import options

if TYPE_CHECKING:
    from dougong.checkpoint.quantize import TensorReport

WORST = 3  # tensors that are named


@click.command("quantize")
@click.argument("source", metavar="MODEL")
@click.argument("target", metavar="FOLDER", type=click.Path(path_type=Path))
@click.option(
    "--experts",
    default="fp4",
    show_default=True,
    metavar="FORMAT",
    help="Of routed experts: fp4, mxfp4, fp8 or bf16.",
)
@click.option(
    "--linears",
    default="fp8",
    show_default=True,
    metavar="FORMAT",
    help="Of attention and shared experts: fp8, or bf16 with bf16 experts.",
)
@click.option(
    "--simulate",
    is_flag=True,
    help="Write the rounded values as float32; any FORMAT of `bench formats` will do.",
)
@options.json_option
def command(
    source: str, target: Path, experts: str, linears: str, simulate: bool, as_json: bool
) -> None:
    """Write MODEL to the new folder FOLDER with its routed experts and linears quantized.

    The result is a checkpoint in the official layout. Tensors that have the format already are
    copied bit for bit. One tensor at a time is in memory. A run that was stopped or killed goes on
    where it stopped when the same command is given again; until the end its files are in
    FOLDER.partial. FOLDER/quantize_report.jsonl has a line for every tensor.

    The error is the root of the sum of squared errors over the sum of squares. Lossy tiles are
    128x128 tiles of FP4 experts whose scales differ by more than 2**11, which therefore do not fold
    into FP8 without loss by the published rule.

    \b
    Examples:
      dougong model quantize ./trained ./small
      dougong model quantize ./trained ./ocp --experts mxfp4
      dougong model quantize ./trained ./as-if --experts nvfp4 --linears hif8 --simulate

    \b
    JSON: source, folder, experts, linears, simulate, bytes, bytes_before, resumed_tensors, roles
    (expert, linear: format, tensors, kept, values, relative_rms, saturated, tiles, lossy_tiles),
    worst (name, relative_rms), report (file), seconds
    """  # fmt: skip
    from dougong.checkpoint.locate import find_checkpoint
    from dougong.checkpoint.quantize import REPORT_FILE, quantize_checkpoint

    start_s = time.monotonic()
    folder = find_checkpoint(source)
    progress = options.Progress("quantizing", "bytes")
    try:
        written = quantize_checkpoint(
            folder, target, experts=experts, linears=linears, simulate=simulate,
            progress=progress.update,
        )  # fmt: skip
    finally:
        progress.close()
    report: dict[str, Any] = {
        "source": source,
        "folder": str(written.folder),
        "experts": experts,
        "linears": linears,
        "simulate": simulate,
        "bytes": written.nbytes,
        "bytes_before": sum(path.stat().st_size for path in folder.glob("*.safetensors")),
        "resumed_tensors": written.resumed,
        "roles": by_role(written.tensors),
        "worst": worst(written.tensors),
        "report": str(written.folder / REPORT_FILE),
        "seconds": round(time.monotonic() - start_s, 3),
    }
    options.emit(report, as_json, describe(report))


def relative_rms(error_squares: float, squares: float) -> float:
    """The error as it is reported; 0 where nothing changed."""
    return float((error_squares / squares) ** 0.5) if squares else 0.0


def by_role(tensors: Iterable[TensorReport]) -> dict[str, dict[str, Any]]:
    """What was quantized, added up for routed experts and for the other linears.

    Tensors whose bits were kept have no error; the sum of squares is that of the others.
    """
    members: dict[str, list[TensorReport]] = defaultdict(list)
    for tensor in tensors:
        if tensor.format:
            members[tensor.role].append(tensor)
    return {
        role: {
            "format": rows[0].format,
            "tensors": len(rows),
            "kept": sum(row.kept for row in rows),
            "values": sum(row.shape[0] * row.shape[1] for row in rows),
            "relative_rms": relative_rms(
                sum(row.error_squares for row in rows), sum(row.squares for row in rows)
            ),
            "saturated": sum(row.saturated for row in rows),
            "tiles": sum(row.tiles for row in rows),
            "lossy_tiles": sum(row.lossy_tiles for row in rows),
        }
        for role, rows in members.items()
    }


def worst(tensors: Iterable[TensorReport]) -> list[dict[str, Any]]:
    """The tensors that lost most, most first."""
    errors = [(relative_rms(row.error_squares, row.squares), row.name) for row in tensors]
    most = sorted((pair for pair in errors if pair[0]), reverse=True)[:WORST]
    return [{"name": name, "relative_rms": error} for error, name in most]


def describe(report: dict[str, Any]) -> str:
    """The report as text."""
    lines = [
        f"{report['folder']}: {report['bytes'] / 1e6:,.1f} MB of weights "
        f"(from {report['bytes_before'] / 1e6:,.1f}) in {report['seconds']} s"
    ]
    if report["resumed_tensors"]:
        lines.append(f"taken over from an earlier run: {report['resumed_tensors']:,} tensors")
    lines.append(
        f"{'':<8}{'format':<20}{'tensors':>9}{'kept':>8}{'error':>10}{'saturated':>12}"
        f"{'lossy tiles':>18}"
    )
    for role, row in report["roles"].items():
        tiles = f"{row['lossy_tiles']:,} of {row['tiles']:,}" if row["tiles"] else "-"
        lines.append(
            f"{role:<8}{row['format']:<20}{row['tensors']:>9,}{row['kept']:>8,}"
            f"{row['relative_rms']:>10.3%}{row['saturated']:>12,}{tiles:>18}"
        )
    lines += [f"most lost: {row['relative_rms']:.3%} {row['name']}" for row in report["worst"]]
    lines.append(f"every tensor: {report['report']}")
    return "\n".join(lines)
