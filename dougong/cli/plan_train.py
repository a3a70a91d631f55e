"""`dougong plan train`: recomputation and overlap policies in training."""

from __future__ import annotations

from typing import Any

import click

from dougong.cli import options, plan_options, plan_text


@click.command("train")
@click.argument("model")
@plan_options.chips_options
@plan_options.counts_option("Chips that share the state and the experts; repeatable.", 512)
@plan_options.tokens_option("--tokens", "4k", "Tokens resident on each chip in one step.")
@plan_options.tokens_option("--sequence", "4k", "Tokens of one sequence.")
@options.json_option
def command(as_json: bool, **words: Any) -> None:
    """Compare recomputation (none, tensor, module) and overlap (none, two_stage, waves) in training
    MODEL: bytes a chip, seconds a step, link time that shows, and the front of bytes against speed.

    No published training row is fitted: compute runs at 35 % of the dense FP8 peak (of the next
    format where a chip has no FP8), so trust the ratios more than the levels.

    \b
    Example:
      dougong plan train v4-pro --chip 950dt --count 512

    \b
    JSON: model, tokens, sequence, fastest, front, runs (chip, chips, recompute, overlap, fits,
    memory_bytes, state_bytes, activation_bytes, most_tokens, step_s, tokens_per_s_per_chip,
    recompute_flops, link_s, exposed_link_s, x, usd_per_mtoken), refused
    """  # fmt: skip
    report = train(**words)
    options.emit(report, as_json, "" if as_json else describe(report))


def train(
    model: str, counts: tuple[int, ...], tokens: int, sequence: int, **words: Any
) -> dict[str, Any]:
    """Every pair of policies under the keys of `--json`."""
    from dougong.plan.training_search import fastest, training_front, training_runs

    chips, refused = plan_options.take_chips(words)
    config = plan_options.find_model(model)
    runs, lacking = training_runs(config, chips, counts, tokens, sequence)
    best = fastest(runs)
    return {
        "model": model,
        "tokens": tokens,
        "sequence": sequence,
        "fastest": best.as_dict() if best else None,
        "front": [run.as_dict() for run in training_front(runs)],
        "runs": [run.as_dict() for run in runs],
        "refused": refused | lacking,
    }


def describe(report: dict[str, Any]) -> str:
    """All pairs on one machine, the front where there are several; then the choice."""
    machines = {(run["chip"], run["chips"]) for run in report["runs"]}
    shown = report["runs"] if len(machines) == 1 else report["front"]
    say = plan_text.seconds
    rows = [["chip", "chips", "recompute", "overlap", "fits", "GB/chip", "activations",
             "most tokens", "step", "link", "shows", "tokens/s/chip"]]  # fmt: skip
    for run in shown:
        rows.append(
            [
                run["chip"],
                str(run["chips"]),
                run["recompute"],
                run["overlap"],
                "yes" if run["fits"] else "NO",
                f"{run['memory_bytes'] / 1e9:,.1f}",
                f"{run['activation_bytes'] / 1e9:,.1f}",
                f"{run['most_tokens']:,}",
                say(run["step_s"]),
                say(run["link_s"]),
                say(run["exposed_link_s"]),
                f"{run['tokens_per_s_per_chip']:,.1f}",
            ]
        )
    lines = [
        f"training {report['model']}: {report['tokens']:,} tokens a chip in sequences of "
        f"{report['sequence']:,}" + ("" if shown is report["runs"] else "; the front")
    ]
    lines += [plan_text.table(rows)] if shown else []
    lines += ["", _choice(report["fastest"])] if report["runs"] else []
    lines += [f"  not computed: {name}: {reason}" for name, reason in report["refused"].items()]
    return "\n".join(lines)


def _choice(best: dict[str, Any] | None) -> str:
    if best is None:
        return "none fits: take fewer --tokens, or more chips with --count"
    return (
        f"fastest that fits: recompute {best['recompute']}, overlap {best['overlap']} on "
        f"{best['chips']} x {best['chip']}"
    )
