"""`dougong plan compare`: chips side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dougong.cli import options, plan_options


@click.command("compare")
@click.argument("model")
@click.option("--chip", "names", multiple=True, help="Chip to compare; repeatable. [default: all]")
@click.option(
    "--count",
    type=click.IntRange(min=1),
    default=16,
    show_default=True,
    help="Chips of each replica.",
)
@click.option(
    "--context",
    type=click.IntRange(min=1),
    default=8192,
    show_default=True,
    help="Tokens in each request's context.",
)
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    default=None,
    help="Requests in flight on the replica. [default: 16 a chip]",
)
@plan_options.precision_option
@plan_options.drafts_option
@plan_options.overlap_option
@plan_options.chip_options
@options.json_option
def command(as_json: bool, **words: Any) -> None:
    """Compare chips on MODEL at one operating point, fastest first.

    A chip that lacks a figure is listed with what is missing, never guessed.

    \b
    Example:
      dougong plan compare v4-pro --chip 950dt --chip h20 --chip b200 --count 32 --context 131072

    \b
    JSON: model, count, context_tokens, batch, chips (id, fits, precision, layout,
    time_per_token_s, low, high, tokens_per_s_per_chip, ttft_s, usd_per_mtoken, joules_per_token,
    bound, hides, calibrated), refused (chip: reason)
    """  # fmt: skip
    report = compare(**words)
    options.emit(report, as_json, "" if as_json else describe(report))


def compare(
    model: str, names: tuple[str, ...], count: int, context: int, batch: int | None,
    precision: str | None, drafts: int | None, overlap: Any,
    settings: tuple[str, ...], what_if: str, chip_file: Path | None,
) -> dict[str, Any]:  # fmt: skip
    """The table under the keys of `--json`."""
    from dougong.errors import DougongError
    from dougong.plan.calibration import default_calibration
    from dougong.plan.compare import compare_one
    from dougong.plan.precision import find_precision
    from dougong.plan.predict import scenario_for

    config = plan_options.find_model(model)
    chips, refused = plan_options.chosen_chips(names, chip_file, settings, what_if)
    rows: list[dict[str, object]] = []
    for chip in chips:
        try:
            scenario = scenario_for(
                config, chip, count, context, batch or 16 * count,
                precision=find_precision(precision) if precision else None,
                drafts=drafts, overlap=overlap,
            )  # fmt: skip
            rows.append(compare_one(scenario, default_calibration()))
        except DougongError as error:
            refused[chip.id] = str(error)
    rows.sort(key=lambda row: (not row["fits"], -float(str(row["tokens_per_s_per_chip"]))))
    return {
        "model": model,
        "count": count,
        "context_tokens": context,
        "batch": batch or 16 * count,
        "chips": rows,
        "refused": refused,
    }


def describe(report: dict[str, Any]) -> str:
    """The comparison as a table, then what is missing."""
    head = ["chip", "fits", "precision", "layout", "per token", "90 %", "tokens/s/chip",
            "first token", "USD/M", "J/token", "binds"]  # fmt: skip
    rows = [head]
    for row in report["chips"]:
        say = plan_options.seconds
        rows.append(
            [
                row["id"],
                "yes" if row["fits"] else "NO",
                row["precision"],
                row["layout"],
                say(row["time_per_token_s"]),
                f"{say(row['low'])}..{say(row['high'])}",
                f"{row['tokens_per_s_per_chip']:,.0f}",
                say(row["ttft_s"]),
                f"{row['usd_per_mtoken']:.3f}" if row["usd_per_mtoken"] is not None else "-",
                f"{row['joules_per_token']:.2f}" if row["joules_per_token"] is not None else "-",
                row["bound"],
            ]
        )
    title = (
        f"{report['model']}, {report['count']} chips, {report['context_tokens']:,} tokens, "
        f"{report['batch']:,} requests in flight"
    )
    lines = [title, plan_options.table(rows)]
    if report["refused"]:
        lines += ["", "not computed:"]
        lines += [f"  {name}: {reason}" for name, reason in report["refused"].items()]
    return "\n".join(lines)
