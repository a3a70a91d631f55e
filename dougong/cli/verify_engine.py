"""`dougong verify engine`: whatever happens to a request, its answer is the one it has alone."""

from __future__ import annotations

from typing import Any

import click

from dougong.cli import options
from dougong.cli.plan_text import table
from dougong.errors import InputError


@click.command("engine")
@click.argument("model", default="nano")
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, max=86400),
    default=20.0,
    show_default=True,
    help="About how long to go on; rarer events need longer.",
)
@click.option(
    "--seed", type=click.IntRange(min=0, max=2**31), default=0, show_default=True,
    help="The same seed draws the same requests and events.",
)  # fmt: skip
@options.serving_backend_option
@options.fallback_option
@options.serving_dtype_option
@options.serving_rounding_option
@options.threads_option
@options.json_option
def command(seconds: float, seed: int, as_json: bool, **words: Any) -> None:
    """Verify the engine on MODEL: a folder, shipped name or org/name.

    Random requests arrive, share beginnings, are cut into chunks, computed together, cancelled,
    late, preempted, evicted, drafted for, and go on in engines started anew over the same disk, one
    or two at a time, after crashes and with damaged files. Each token, log-probability and text
    must equal (==) what the request gives alone, one token at a time and without any cache. Exit
    status 1 if one does not. An event that never happened has coverage 0 and is said to be
    unproven.

    \b
    Example:
      dougong verify engine nano --seconds 60 --seed 7

    \b
    JSON: model, backend, dtype, rounding, seconds, seed, ok, requests, tokens, comparisons,
    mismatches, coverage (event: how often), failures (the first few)
    """
    how = options.chosen(words)
    loaded = options.load(words)
    from dougong.conform.engine import verify
    from dougong.model.transformer import Transformer

    if not isinstance(loaded.transformer, Transformer):
        raise InputError(f"{how['model']} is a V3 model; the engine runs V4 models only.")
    progress = options.Progress(f"verifying the engine on {how['model']}", "seconds")
    try:
        verdict = verify(
            loaded.transformer, loaded.tokenizer, seconds, seed,
            backend=how["backend"], progress=progress.update,
        )  # fmt: skip
    finally:
        progress.close()
    ok = verdict.mismatches == 0
    report = {**how, "seconds": seconds, "seed": seed, "ok": ok, **verdict.as_dict()}
    options.emit(report, as_json, describe(report))
    if not ok:
        raise click.exceptions.Exit(1)


def describe(report: dict[str, Any]) -> str:
    """What happened how often, then what was not equal."""
    rows = [["event", "times"]]
    rows += [[event, f"{count:,}"] for event, count in report["coverage"].items()]
    lines = [table(rows), *(f"  {failure}" for failure in report["failures"])]
    if never := [event for event, count in report["coverage"].items() if count == 0]:
        lines.append(f"unproven, for it never happened: {', '.join(never)}; try more --seconds")
    wrong = report["mismatches"]
    lines.append(
        f"{report['requests']:,} requests, {report['tokens']:,} tokens written: "
        f"{report['comparisons']:,} comparisons, "
        + (f"{wrong:,} NOT equal" if wrong else "all equal")
    )
    return "\n".join(lines)
