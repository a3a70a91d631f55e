"""`dougong plan fleet`: simulate traffic over replicas."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from dougong.cli import options, plan_options, plan_text
from dougong.cli.values import Pairs, read_number, read_seconds, read_tokens

if TYPE_CHECKING:
    from dougong.plan.fleet import Demand, FleetResult, Served

TRAFFIC = Pairs(
    rate=(read_number, 1.0),
    turns=(read_number, 3.0),
    system=(read_tokens, 1024),
    user=(read_tokens, 512),
    output=(read_tokens, 512),
    pause=(read_seconds, 20.0),
)


@click.command("fleet")
@click.argument("model")
@plan_options.chip_options
@plan_options.count_option("Decode chips of one replica.")
@click.option(
    "--prefill",
    "prefill_chips",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="More chips of each replica that only read prompts; 0 lets decode chips do it.",
)
@click.option("--replicas", type=click.IntRange(min=1), default=1, show_default=True)
@plan_options.tokens_option("--context", "16k", "Tokens that each request may hold.")
@click.option(
    "--traffic",
    type=TRAFFIC,
    default="",
    metavar="rate=1,turns=3,system=1k,user=512,output=512,pause=20s",
    help="Conversations per second, turns, tokens and the pause between turns.",
)
@plan_options.slo_option("Limits to judge by. [default: ttft=2s,tpot=50ms]", 2.0, 0.05)
@click.option(
    "--seconds",
    type=click.FloatRange(min=1),
    default=300.0,
    show_default=True,
    help="Simulated time; the first fifth is warm-up.",
)
@click.option(
    "--host-gb",
    type=click.FloatRange(min=0),
    default=512.0,
    show_default=True,
    help="Host memory for contexts, per replica.",
)
@click.option(
    "--disk-gb",
    type=click.FloatRange(min=0),
    default=8000.0,
    show_default=True,
    help="Disk for contexts, shared.",
)
@click.option(
    "--strategy",
    type=click.Choice(["full", "periodic", "zero"]),
    default="periodic",
    show_default=True,
    help="Which window entries the disk keeps.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@plan_options.serving_options
@options.json_option
def command(as_json: bool, **words: Any) -> None:
    """Simulate conversations on replicas of MODEL: prefix reuse, queues, and contexts that move
    between device, host memory and disk.

    \b
    Example:
      dougong plan fleet v4-flash --chip 950dt --count 16 --replicas 2 --traffic rate=8,turns=5

    \b
    JSON: model, chip, count, prefill_chips, replicas, requests, unfinished, requests_per_s,
    output_tokens_per_s, output_tokens_per_s_per_chip, hit_rate, found_in, ttft_s (p50, p90, p99),
    tpot_s (p50, p90, p99), within_slo, prefill_busy, usd_per_mtoken
    """  # fmt: skip
    report = simulate(**words)
    options.emit(report, as_json, "" if as_json else describe(report))


def simulate(
    model: str, count: int, prefill_chips: int, replicas: int, traffic: dict[str, float],
    slo: dict[str, float], seconds: float, host_gb: float, disk_gb: float, strategy: Any,
    seed: int, **words: Any,
) -> dict[str, Any]:  # fmt: skip
    """The simulation under the keys of `--json`."""
    from dougong.plan import fleet, fleet_speeds
    from dougong.plan.calibration import default_calibration

    demand, chip = as_demand(traffic), plan_options.take_chip(words)
    scenario = plan_options.take_scenario(words | {"model": model, "count": count}, chip, count)
    replica = fleet_speeds.replica_of(
        scenario, default_calibration(), demand,
        host_bytes=host_gb * 1e9, disk_bytes=disk_gb * 1e9, strategy=strategy,
        prefill_chips=prefill_chips,
    )  # fmt: skip
    result = fleet.simulate(demand, replica, replicas, seconds, seed)
    return {
        "model": model,
        "chip": scenario.chip.id,
        "count": count,
        "prefill_chips": prefill_chips,
        "replicas": replicas,
        "within_slo": result.within(slo["ttft"], slo["tpot"]),
        **as_report(result, replicas * (count + prefill_chips), scenario.chip.rental),
    }


def as_demand(load: dict[str, float]) -> Demand:
    """`--traffic` as the simulation takes it."""
    from dougong.plan.fleet import Demand

    return Demand(
        conversations_per_s=load["rate"],
        turns=load["turns"],
        system_len=int(load["system"]),
        user_len=int(load["user"]),
        output_len=int(load["output"]),
        pause_s=load["pause"],
    )


def as_report(result: FleetResult, chips: int, rental: float | None) -> dict[str, Any]:
    """What the traffic got, under the keys of `--json`; `chips` are all that are paid for."""
    from dougong.plan.cost import usd_per_mtoken

    per_chip = result.output_tokens_per_s / chips

    def quantiles(what: Callable[[Served], float]) -> dict[str, float] | None:
        if not result.served:
            return None
        return {f"p{share}": result.quantile(what, share / 100) for share in (50, 90, 99)}

    return {
        "requests": len(result.served),
        "unfinished": result.unfinished,
        "requests_per_s": len(result.served) / result.measured_s,
        "output_tokens_per_s": result.output_tokens_per_s,
        "output_tokens_per_s_per_chip": per_chip,
        "hit_rate": result.hit_rate,
        "found_in": result.tier_shares(),
        "ttft_s": quantiles(lambda one: one.ttft_s),
        "tpot_s": quantiles(lambda one: one.tpot_s),
        "prefill_busy": result.prefill_busy,
        "usd_per_mtoken": usd_per_mtoken(per_chip, rental) if rental and per_chip else None,
    }


def describe(report: dict[str, Any]) -> str:
    """The result for a person."""
    say = plan_text.seconds
    chips = f"{report['replicas']} x ({report['count']} + {report['prefill_chips']} prefill)"
    lines = [
        f"{report['model']} on {chips} {report['chip']}: {report['requests']} requests finished, "
        f"{report['unfinished']} under way at the end",
        f"  throughput    {report['requests_per_s']:.2f} requests/s, "
        f"{report['output_tokens_per_s']:,.0f} output tokens/s "
        f"({report['output_tokens_per_s_per_chip']:,.0f} per chip)",
    ]
    for key, label in (("ttft_s", "first token"), ("tpot_s", "per token")):
        if report[key]:
            values = ", ".join(f"{name} {say(value)}" for name, value in report[key].items())
            lines.append(f"  {label:<13} {values}")
    found = ", ".join(f"{name} {share:.0%}" for name, share in report["found_in"].items())
    lines += [
        f"  within limits {report['within_slo']:.1%}",
        f"  prefix hits   {report['hit_rate']:.0%} of prompt tokens; found in: {found}",
        f"  prefill busy  {report['prefill_busy']:.0%}",
    ]
    if report["usd_per_mtoken"] is not None:
        lines.append(
            f"  price         {report['usd_per_mtoken']:.3f} USD per million output tokens"
        )
    return "\n".join(lines)
