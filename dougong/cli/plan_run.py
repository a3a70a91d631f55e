"""`dougong plan run`: one model on one kind of chip."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from dougong.cli import options, plan_options, plan_text
from dougong.cli.values import Pairs, read_number, read_share, read_tokens

if TYPE_CHECKING:
    from dougong.plan.runs import Run, Traffic

TRAFFIC = Pairs(
    rate=(read_number, 1.0),
    prompt=(read_tokens, 8192),
    output=(read_tokens, 1024),
    hit=(read_share, 0.0),
)


@click.command("run")
@click.argument("model")
@plan_options.chip_options
@plan_options.count_option("Chips of one replica.")
@plan_options.tokens_option("--context", "8k", "Tokens in each request's context.")
@plan_options.batch_option("one a chip, or what --slo allows")
@plan_options.slo_option("Limits; the batch is then the largest that meets them.")
@click.option(
    "--traffic",
    type=TRAFFIC,
    default=None,
    metavar="rate=8,prompt=8k,output=1k,hit=50%",
    help="Requests per second and their sizes: gives replicas and the prefill share.",
)
@plan_options.serving_options
@click.option(
    "--tp",
    type=click.IntRange(min=1),
    default=None,
    help="Tensor-parallel degree of attention. [default: the least that fits]",
)
@options.json_option
def command(as_json: bool, **words: Any) -> None:
    """Say whether MODEL fits on COUNT chips, how fast it decodes and prefills, what binds, what to
    change first, and the commands that start it.

    \b
    Examples:
      dougong plan run v4-flash --chip 950dt --count 16 --batch 1536
      dougong plan run v4-pro --chip h20 --count 16 --slo tpot=50ms --what-if "link/4, no fp8"

    \b
    JSON: model, chip, count, layout, precision, context_tokens, batch, drafts, overlap, fits,
    memory_bytes, largest_batch, smallest_count, figures, price, energy, prefill, bound, parts_s,
    operators, hiding, changes, launch, calibration, conflicts, replicas, prefill_share
    """  # fmt: skip
    result = compute(**words)
    options.emit(result.as_dict(), as_json, "" if as_json else describe(result))


def compute(
    model: str, batch: int | None, slo: dict[str, float], traffic: dict[str, float] | None,
    **words: Any,
) -> Run:  # fmt: skip
    """The run that the words on the command line ask for."""
    from dougong.plan.calibration import default_calibration
    from dougong.plan.runs import run

    if batch is not None and slo["tpot"]:
        raise click.UsageError("--batch and a tpot limit exclude each other: give one of them.")
    words["model"], chip = model, plan_options.take_chip(words)
    scenario = plan_options.take_scenario(words, chip, batch or words["count"])
    load = as_traffic(traffic) if traffic else None
    result = run(model, scenario, default_calibration(), slo["tpot"] or None, load)
    if slo["ttft"] and result.prefill.ttft_s > slo["ttft"]:
        from dougong.errors import InputError

        taken, wanted = (plan_text.seconds(t) for t in (result.prefill.ttft_s, slo["ttft"]))
        raise InputError(
            f"first token in {wanted} cannot be met: {result.prefill.prompt_len} prompt tokens "
            f"take {taken} on one group; raise --tp, or let `plan search` split prefill off"
        )
    return result


def as_traffic(values: dict[str, float]) -> Traffic:
    """`--traffic` as the planner takes it."""
    from dougong.plan.runs import Traffic

    if values["prompt"] < 1 or values["output"] < 1 or values["hit"] >= 1 or not values["rate"]:
        raise click.UsageError(
            "--traffic: rate must be above 0, prompt and output at least 1, hit below 100%."
        )
    return Traffic(
        requests_per_s=values["rate"],
        prompt_len=int(values["prompt"]),
        output_len=int(values["output"]),
        hit_rate=values["hit"],
    )


def describe(result: Run) -> str:
    """The answer for a person: verdict, speed, what binds, what to change, how to start."""
    lines = [*_verdict(result), *_speed(result), *_money(result)]
    if result.hiding is not None:
        word = "hides" if result.hiding.hides_at_peak else "does not hide"
        lines.append(
            f"  expert traffic   {word} at peak: C/B {result.hiding.peak_ratio:,.0f} FLOP/B "
            f"against {result.hiding.threshold:,.0f} (2d)"
        )
    if not result.calibrated:
        lines.append("  note             no published row for this class: the interval is wide")
    for row in result.conflicts:
        lines.append(
            f"  sources conflict {row['field']}: {row['value'] or 'nothing'} is used, "
            f"{row['other_source']} says {row['other_value']}"
        )
    lines += ["", "change first (throughput per chip, everything else equal):"]
    if not result.decode.memory.fits:
        lines.append(f"  memory: the figures above assume that it fits; {_way_out(result)}")
    lines += [
        f"  x{one.speedup:.2f}  {one.name}{'' if one.fits else ' (does not fit)'}"
        for one in [c for c in result.changes if c.speedup > 1][:5]
    ]
    if not result.decode.memory.fits:
        return "\n".join([*lines, "", "start it: nothing to start, it does not fit"])
    lines += ["", "start it:"]
    if result.decode.scenario.precision.name != "release":
        lines.append(
            f"  # needs a checkpoint in {result.decode.scenario.precision.name}; these serve the "
            "published one"
        )
    for launch in result.launches:
        lines += [f"  # {launch.engine}{': ' + launch.note if launch.note else ''}"]
        lines += [f"  {line}" for line in launch.commands]
    return "\n".join(lines)


def _way_out(result: Run) -> str:
    """What would make a plan fit that does not."""
    if result.largest_batch > 0:
        return f"at most {result.largest_batch:,} requests fit here: lower --batch or add chips"
    chips = result.smallest_count
    return f"{chips} chips hold it" if chips else "1,024 chips do not hold one request"


def _verdict(result: Run) -> list[str]:
    scenario, memory = result.decode.scenario, result.decode.memory
    gigabytes = plan_text.gigabytes
    needs = f"; one needs at least {result.smallest_count} chips" if result.smallest_count else ""
    return [
        f"{result.model} on {scenario.layout.chips} x {scenario.chip.name}, "
        f"{scenario.layout.label()}, {scenario.precision.name}: "
        f"{'fits' if memory.fits else 'DOES NOT FIT'}",
        f"  {scenario.precision.about}",
        f"  memory per chip  {gigabytes(memory.total)} of {gigabytes(memory.capacity)} "
        f"(dense {memory.dense / 1e9:.1f}, experts {memory.experts / 1e9:.1f}, "
        f"KV {memory.kv / 1e9:.1f}, reserved {memory.reserved / 1e9:.1f}); "
        f"at most {result.largest_batch:,} requests of {scenario.context_len:,} tokens{needs}",
    ]


def _speed(result: Run) -> list[str]:
    point, reading, alone = result.decode, result.prefill, result.fastest_prefill
    say, rate = plan_text.seconds, plan_text.rate
    wide = ""
    if alone is not reading:
        wide = f"; alone on {alone.scenario.layout.label()}: {say(alone.ttft_s)}"
    parts = point.step.parts().items()
    return [
        f"  decode           {say(point.tpot_s)} per token [{say(point.tpot_low_s)} to "
        f"{say(point.tpot_high_s)}], {rate(point.tokens_per_s_per_user)} tokens/s per request, "
        f"{rate(point.tokens_per_s_per_chip)} tokens/s per chip at "
        f"{point.scenario.batch:,} in flight",
        f"  prefill          {reading.prompt_len:,} tokens in {say(reading.ttft_s)} "
        f"[{say(reading.ttft_low_s)} to {say(reading.ttft_high_s)}], "
        f"{rate(reading.tokens_per_s_per_chip)} tokens/s per chip{wide}",
        "  step             " + ", ".join(f"{name} {say(value)}" for name, value in parts if value),
        f"  binds            {point.step.bound}",
    ]


def _money(result: Run) -> list[str]:
    from dougong.plan.cost import energy, price

    chip, rate = result.decode.scenario.chip, result.decode.tokens_per_s_per_chip
    lines = []
    for label, figure, unit in (
        ("price", price(chip, rate), "USD per million output tokens"),
        ("energy", energy(chip, rate), "J per token"),
    ):
        known = f"{figure.value:.3g} {unit}" if figure.value is not None else figure.formula
        lines.append(f"  {label:<16} {known}")
    if result.replicas is not None:
        lines.append(
            f"  traffic          {result.replicas:.2f} replicas, "
            f"{result.prefill_share:.0%} of their chips reading prompts"
        )
    return lines
