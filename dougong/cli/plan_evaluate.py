"""`dougong plan evaluate`: predicted against measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dougong.cli import options, plan_options, plan_text


@click.command("evaluate")
@click.argument("rows", type=click.Path(path_type=Path), required=False)
@click.option(
    "--leave-out",
    type=click.Choice(["nothing", "row", "chip"]),
    default="nothing",
    show_default=True,
    help="Fit on these rows, each time without the row (or chip) that is predicted.",
)
@click.option(
    "--a3-unit",
    type=click.Choice(["auto", "die", "package"]),
    default="auto",
    show_default=True,
    help='What a 910C "chip" counts: auto takes dies in CANN\'s recipes, else packages.',
)
@click.option(
    "--assume-mtp",
    type=click.IntRange(0, 7),
    default=None,
    help="Drafts per step where a row leaves mtp empty. [default: do not model it]",
)
@plan_options.chip_file_option
@options.json_option
def command(as_json: bool, **words: Any) -> None:
    """Predict every row of ROWS, a CSV file in the layout of v4_inference_benchmarks.csv, and
    compare with what was measured. Without ROWS the published table itself is evaluated.

    The published rows are in the fit: use --leave-out for honest figures on them.

    \b
    Example:
      dougong plan evaluate --leave-out row --json

    \b
    JSON: rows, modelled, unmodelled, median_abs_rel_error, p90_abs_rel_error, interval_coverage,
    per_row (row, label, modelled, measured_tpot_ms, predicted_tpot_ms, low_tpot_ms, high_tpot_ms,
    measured_tok_s_per_chip, predicted_tok_s_per_chip, rel_error, in_interval, precision, layout,
    bound; or reason), loglinear_median_abs_rel_error, loglinear_p90_abs_rel_error
    """  # fmt: skip
    report = evaluate(**words)
    options.emit(report, as_json, "" if as_json else describe(report))


def evaluate(
    rows: Path | None, leave_out: str, a3_unit: Any, assume_mtp: int | None, chip_file: Path | None
) -> dict[str, Any]:
    """The evaluation under the keys of `--json`."""
    from dougong.plan import evaluate as evaluation
    from dougong.plan.calibration import default_calibration
    from dougong.plan.tables import load_table, read_table

    name = "v4_inference_benchmarks"
    table = load_table(name) if rows is None else read_table(rows, name, needs_source=False)
    chips = plan_options.all_chips(chip_file)
    cases, unmodelled = evaluation.read_cases(table, chips, a3_unit, assume_mtp)
    if leave_out == "row":
        result = evaluation.leave_one_out(cases, unmodelled)
    elif leave_out == "chip":
        result = evaluation.leave_chip_out(cases, unmodelled)
    else:
        result = evaluation.evaluate(cases, unmodelled, lambda _: default_calibration())
    yardstick = evaluation.loglinear_quantiles(cases)
    return result.as_dict() | {
        "loglinear_median_abs_rel_error": yardstick[0],
        "loglinear_p90_abs_rel_error": yardstick[1],
    }


def describe(report: dict[str, Any]) -> str:
    """Each row, then the summary and the rows that were not modelled."""
    lines = [["row", "measured", "predicted", "90 %", "error", "binds", "what"]]
    for row in report["per_row"]:
        if row["modelled"]:
            lines.append(
                [
                    str(row["row"]),
                    f"{row['measured_tpot_ms']:.2f} ms",
                    f"{row['predicted_tpot_ms']:.2f} ms",
                    f"{row['low_tpot_ms']:.2f}..{row['high_tpot_ms']:.2f}",
                    f"{row['rel_error']:+.1%}",
                    row["bound"],
                    f"{row['label']} {row['precision']}",
                ]
            )
    text = [plan_text.table(lines), ""]
    text.append(f"{report['modelled']} of {report['rows']} rows modelled")
    if report["modelled"]:
        errors = [report[f"{name}_abs_rel_error"] for name in ("median", "p90")]
        text.append(
            f"absolute relative error: median {errors[0]:.1%}, 90th percentile {errors[1]:.1%}; "
            f"{report['interval_coverage']:.0%} inside the 90 % interval"
        )
    if report["loglinear_median_abs_rel_error"] is not None:
        text.append(
            "log-linear regression, leaving one row out: median "
            f"{report['loglinear_median_abs_rel_error']:.1%}, 90th percentile "
            f"{report['loglinear_p90_abs_rel_error']:.1%}"
        )
    missing = [row for row in report["per_row"] if not row["modelled"]]
    text += [
        f"  not modelled: row {row['row']}, {row['label']}: {row['reason']}" for row in missing
    ]
    return "\n".join(text)
