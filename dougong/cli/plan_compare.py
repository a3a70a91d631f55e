"""`dougong plan compare`: chips side by side."""

from __future__ import annotations

from typing import Any

import click

from dougong.cli import options, plan_options, plan_text


@click.command("compare")
@click.argument("model")
@plan_options.chips_options
@plan_options.count_option("Chips of each replica.", 16)
@plan_options.tokens_option("--context", "8k", "Tokens in each request's context.")
@plan_options.batch_option("16 a chip")
@plan_options.serving_options
@options.json_option
def command(as_json: bool, **words: Any) -> None:
    """Compare chips on MODEL at one operating point, fastest first.

    A chip that lacks a figure is listed with what is missing, never guessed.

    \b
    Example:
      dougong plan compare v4-pro --chip 950dt --chip h20 --chip b200 --count 32 --context 128k

    \b
    JSON: model, count, context_tokens, batch, chips (id, fits, precision, layout,
    time_per_token_s, low, high, tokens_per_s_per_chip, ttft_s, usd_per_mtoken, joules_per_token,
    bound, hides, calibrated), refused (chip: reason)
    """  # fmt: skip
    report = compare(**words)
    options.emit(report, as_json, "" if as_json else describe(report))


def compare(**words: Any) -> dict[str, Any]:
    """The table under the keys of `--json`."""
    from dougong.errors import DougongError
    from dougong.plan.calibration import default_calibration
    from dougong.plan.compare import compare_one

    chips, refused = plan_options.take_chips(words)
    batch = words.pop("batch") or 16 * words["count"]
    rows: list[dict[str, object]] = []
    for chip in chips:
        try:
            scenario = plan_options.take_scenario(dict(words), chip, batch)
            rows.append(compare_one(scenario, default_calibration()))
        except DougongError as error:
            refused[chip.id] = str(error)
    rows.sort(key=lambda row: (not row["fits"], -float(str(row["tokens_per_s_per_chip"]))))
    return {
        "model": words["model"],
        "count": words["count"],
        "context_tokens": words["context"],
        "batch": batch,
        "chips": rows,
        "refused": refused,
    }


def describe(report: dict[str, Any]) -> str:
    """The comparison as a table, then what is missing."""
    head = ["chip", "fits", "precision", "layout", "per token", "90 %", "tokens/s/chip",
            "first token", "USD/M", "J/token", "binds"]  # fmt: skip
    rows = [head]
    for row in report["chips"]:
        say = plan_text.seconds
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
    lines = [title, plan_text.table(rows)]
    if report["refused"]:
        lines += ["", "not computed:"]
        lines += [f"  {name}: {reason}" for name, reason in report["refused"].items()]
    return "\n".join(lines)
