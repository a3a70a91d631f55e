"""`dougong bench formats`: what each number format takes, reaches and loses."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dougong.cli import options
from dougong.errors import InputError

if TYPE_CHECKING:
    from dougong.checkpoint.matrices import Matrix
    from dougong.formats import Format

SYNTHETIC = {"gaussian": "Gaussian", "heavy_tailed": "Student t(4)"}
PLOT_SUFFIXES = (".png", ".svg", ".pdf")


@click.command("formats")
@click.argument("source", metavar="[MODEL|FILE]", required=False)
@click.option(
    "--format",
    "names",
    multiple=True,
    metavar="NAME",
    help="Only this format; may be repeated.  [default: all]",
)
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Draw error against bits into a .png, .svg or .pdf file.",
)
@click.option("--record", is_flag=True, help="Append the figures to bench/results.")
@options.json_option
def command(
    source: str | None, names: tuple[str, ...], plot: Path | None, record: bool, as_json: bool
) -> None:
    """Print each number format's bits, range and error, and the machines that have it natively.

    The error is measured on the linear and expert matrices of MODEL, on the matrices of a
    .safetensors or .npy FILE, or, without either, on a Gaussian and on a heavy-tailed matrix
    (1024x4096; Student's t with 4 degrees of freedom). It is the root of the sum of squared errors
    over the sum of squares. A checkpoint that is quantized already is measured as what it holds.

    \b
    Examples:
      dougong bench formats
      dougong bench formats nano --plot formats.png
      dougong bench formats --format mxfp4 --format nvfp4 --json

    \b
    JSON: source, values (per sample), formats (name, title, element, bits_per_value, max, smallest,
    native_machines, relative_rms and saturated per sample), recorded (files)
    """  # fmt: skip
    from dougong.cli.format_plot import draw
    from dougong.formats import FORMATS, find_format

    if plot is not None and plot.suffix not in PLOT_SUFFIXES:
        raise InputError(f"--plot {plot}: choose a name that ends in {', '.join(PLOT_SUFFIXES)}.")
    if plot is not None and not plot.absolute().parent.is_dir():
        raise InputError(f"--plot {plot}: there is no folder {plot.absolute().parent}.")
    formats = [find_format(name) for name in names] or list(FORMATS.values())
    samples = samples_of(source)
    report = measure(source, samples, formats)
    if plot is not None:
        draw(report["formats"], {name: SYNTHETIC.get(name, name) for name in samples}, plot)
    report["recorded"] = keep(report) if record else []
    options.emit(report, as_json, describe(report))


def samples_of(source: str | None) -> dict[str, list[Matrix]]:
    """What is measured: the matrices of each sample, by the sample's name."""
    from dougong.checkpoint.matrices import Matrix, matrices
    from dougong.formats import measure

    if source is not None:
        return {Path(source).name or source: matrices(source)}
    makers: dict[str, Callable[[], Any]] = {
        "gaussian": measure.gaussian,
        "heavy_tailed": measure.heavy_tailed,
    }
    return {name: [Matrix(name, measure.SAMPLE_SHAPE, maker)] for name, maker in makers.items()}


def measure(
    source: str | None, samples: dict[str, list[Matrix]], formats: list[Format]
) -> dict[str, Any]:
    """The report under the keys of `--json`: every format on every sample."""
    from dougong.formats import Fidelity

    totals = {(format.name, name): Fidelity() for format in formats for name in samples}
    for name, format, loss in losses(samples, formats):
        totals[format.name, name] += loss
    shapes = [matrix.shape for members in samples.values() for matrix in members]
    values = sum(rows * columns for rows, columns in shapes)
    return {
        "source": source,
        "values": {
            name: sum(m.shape[0] * m.shape[1] for m in members) for name, members in samples.items()
        },
        "formats": [
            {
                "name": format.name,
                "title": format.title,
                "element": format.element.name,
                "bits_per_value": 8 * sum(format.nbytes(shape) for shape in shapes) / values,
                "max": format.element.max,
                "smallest": format.element.smallest,
                "native_machines": format.native_machines,
                "relative_rms": {name: totals[format.name, name].relative_rms for name in samples},
                "saturated": {name: totals[format.name, name].saturated for name in samples},
            }
            for format in formats
        ],
    }


def losses(
    samples: dict[str, list[Matrix]], formats: list[Format]
) -> Iterator[tuple[str, Format, Any]]:
    """The loss of every matrix in every format, one matrix in memory at a time."""
    from dougong.formats import fidelity, quantize

    matrices = [(name, matrix) for name, members in samples.items() for matrix in members]
    total, done = sum(m.shape[0] * m.shape[1] for _, m in matrices) * len(formats), 0
    progress = options.Progress("measuring", "values")
    try:
        for name, matrix in matrices:
            x_OI = matrix.read()
            for format in formats:
                try:
                    yield name, format, fidelity(x_OI, quantize(x_OI, format))
                except InputError as problem:
                    raise InputError(f"tensor {matrix.name!r}: {problem}") from None
                done += x_OI.size
                progress.update(done, total)
    finally:
        progress.close()


def keep(report: dict[str, Any]) -> list[str]:
    """Appends the report to bench/results under `formats.<format>.<figure>`."""
    from dougong.plan.records import append_records, make_record

    command = " ".join(["dougong bench formats", *([report["source"]] * bool(report["source"]))])
    rows = []
    for row in report["formats"]:
        prefix = f"formats.{row['name']}"
        for sample, value in row["relative_rms"].items():
            slug = re.sub(r"[^a-z0-9_]+", "-", sample.lower()).strip("-")
            rows.append((f"{prefix}.relative_rms_{slug}", value, "1"))
        if report["source"] is None:  # of a model, it depends on the model's shapes
            rows.append((f"{prefix}.bits_per_value", row["bits_per_value"], "bit"))
    records = [make_record(name, value, unit, command) for name, value, unit in rows]
    return [str(path) for path in append_records(records, "formats")]


def describe(report: dict[str, Any]) -> str:
    """The report as a table."""
    samples = list(report["values"])
    headings = [f"error, {SYNTHETIC.get(name, name)}"[:22] for name in samples]
    lines = [
        f"{'format':<20}{'bits/value':>11}{'max':>12}{'smallest':>10}"
        + "".join(f"{heading:>23}" for heading in headings)
        + "  native on"
    ]
    for row in report["formats"]:
        errors = "".join(f"{row['relative_rms'][name]:>22.3%} " for name in samples)
        lines.append(
            f"{row['name']:<20}{row['bits_per_value']:>11.4f}{row['max']:>12.5g}"
            f"{row['smallest']:>10.3g}{errors}  {row['native_machines']}"
        )
    lines += [f"recorded in {path}" for path in report.get("recorded", [])]
    return "\n".join(lines)
