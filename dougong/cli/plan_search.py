"""`dougong plan search`: the best deployments."""

from __future__ import annotations

from typing import Any

import click

from dougong.cli import options, plan_options, plan_text


@click.command("search")
@click.argument("model")
@plan_options.chips_options
@plan_options.counts_option("Chips of a replica to try; repeatable.", 8, 16, 32)
@plan_options.tokens_option("--context", "16k", "Tokens that each request may hold.")
@plan_options.tokens_option("--prompt", "8k", "Mean prompt.")
@plan_options.tokens_option("--output", "1k", "Mean output.")
@click.option(
    "--hit",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.0,
    show_default=True,
    help="Share of the prompt that a prefix cache holds.",
)
@plan_options.slo_option("Limits to meet.")
@click.option(
    "--by",
    type=click.Choice(["throughput", "price"]),
    default="throughput",
    show_default=True,
    help="What the front trades against time per token.",
)
@options.json_option
def command(as_json: bool, **words: Any) -> None:
    """Search formats, layouts, batches, drafts, overlap policies and the prefill/decode split for
    MODEL; print the Pareto front of time per token against throughput per chip (or price).

    \b
    Example:
      dougong plan search v4-flash --chip 950dt --chip h20 --slo tpot=30ms,ttft=3s

    \b
    JSON: model, points, front (chip, chips, layout, precision, batch, drafts, overlap,
    time_per_token_s, time_per_token_low_s, time_per_token_high_s, tokens_per_s_per_user,
    tokens_per_s_per_chip, time_to_first_token_s, prefill_share, usd_per_mtoken, bound), refused
    """  # fmt: skip
    report = search(**words)
    options.emit(report, as_json, "" if as_json else describe(report))


def search(
    model: str, counts: tuple[int, ...], context: int, prompt: int, output: int, hit: float,
    slo: dict[str, float], by: str, **words: Any,
) -> dict[str, Any]:  # fmt: skip
    """The front under the keys of `--json`."""
    from dougong.plan.calibration import default_calibration
    from dougong.plan.search import Wanted, deployments, pareto

    chips, refused = plan_options.take_chips(words)
    wanted = Wanted(
        context_len=context,
        prompt_len=prompt,
        output_len=output,
        hit_rate=hit,
        tpot_s=slo["tpot"] or None,
        ttft_s=slo["ttft"] or None,
    )
    calibration = default_calibration()
    points, lacking = deployments(
        plan_options.find_model(model), chips, counts, wanted, calibration
    )
    front = pareto(points, by_price=by == "price")
    return {
        "model": model,
        "points": len(points),
        "front": [point.as_dict(calibration) for point in front],
        "refused": refused | lacking,
    }


def describe(report: dict[str, Any]) -> str:
    """The front as a table, then the chips that gave nothing."""
    say = plan_text.seconds
    rows = [["chip", "chips", "layout", "precision", "in flight", "drafts", "overlap", "per token",
             "90 %", "tokens/s/chip", "first token", "prefill", "USD/M"]]  # fmt: skip
    for p in report["front"]:
        price = p["usd_per_mtoken"]
        rows.append(
            [
                p["chip"],
                str(p["chips"]),
                p["layout"],
                p["precision"],
                f"{p['batch']:,}",
                str(p["drafts"]),
                p["overlap"],
                say(p["time_per_token_s"]),
                f"{say(p['time_per_token_low_s'])}..{say(p['time_per_token_high_s'])}",
                f"{p['tokens_per_s_per_chip']:,.0f}",
                say(p["time_to_first_token_s"]),
                f"{p['prefill_share']:.0%}",
                "-" if price is None else f"{price:.3f}",
            ]
        )
    lines = [f"{report['model']}: {report['points']:,} deployments fit; the front:"]
    lines += [plan_text.table(rows) if report["front"] else "  none meets the limits"]
    if report["refused"]:
        lines += ["", "gave nothing:"]
        lines += [f"  {name}: {reason}" for name, reason in report["refused"].items()]
    return "\n".join(lines)
