"""`dougong verify kernels`: a backend's operators against the reference."""

from __future__ import annotations

from typing import Any

import click

from dougong.cli import options
from dougong.cli.plan_text import table


@click.command("kernels")
@click.option(
    "--backend", default="cpu", show_default=True, help="The backend whose operators are verified."
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, max=86400),
    default=20.0,
    show_default=True,
    help="About how long to go on drawing cases; each kind is drawn once at least.",
)
@click.option(
    "--seed", type=click.IntRange(min=0, max=2**31), default=0, show_default=True,
    help="The same seed draws the same cases.",
)  # fmt: skip
@options.json_option
def command(backend: str, seconds: float, seed: int, as_json: bool) -> None:
    """Verify every operator of a backend on random shapes, formats and numbers of rows.

    All rows together must lie near the reference: 2e-5 in float32, 2e-2 in bfloat16, of results
    about 1; what is rounded as in the release, and every choice, must be equal. Then some of the
    rows alone, on another number of threads and another instruction set, must be those rows bit for
    bit. Exit status 1 if anything is not. `dougong doctor` shows what was last verified here.

    \b
    Example:
      dougong verify kernels --seconds 60 --seed 7

    \b
    JSON: backend, seconds, seed, ok, operators (name: cases, worst (share of what may be), ok,
    failures), kept (file, or null)
    """
    from dougong.conform.kernels import verify

    progress = options.Progress(f"verifying {backend}", "seconds")
    try:
        verdicts = verify(backend, seconds, seed, progress=progress.update)
    finally:
        progress.close()
    report = {
        "backend": backend,
        "seconds": seconds,
        "seed": seed,
        "ok": all(verdict.ok for verdict in verdicts.values()),
        "operators": {name: verdict.as_dict() for name, verdict in verdicts.items()},
        "kept": keep(backend, verdicts),
    }
    options.emit(report, as_json, describe(report))
    if not report["ok"]:
        raise click.exceptions.Exit(1)


def keep(backend: str, verdicts: dict[str, Any]) -> str | None:
    """Notes the verdicts for `dougong doctor`; None where the cache folder cannot be written."""
    from dougong.conform.verified import remember
    from dougong.machine import this_machine

    try:
        return str(remember(backend, this_machine().processor, verdicts))
    except OSError:
        return None


def describe(report: dict[str, Any]) -> str:
    """The operators as a table, then what failed."""
    rows = [["operator", "cases", "largest error", "verdict"]]
    for name, one in report["operators"].items():
        worst = "-" if one["worst"] is None else f"{one['worst']:.1%} of what may be"
        rows.append([name, str(one["cases"]), worst, "right" if one["ok"] else "WRONG"])
    lines = [table(rows)]
    for name, one in report["operators"].items():
        lines += [f"  {name}: {failure}" for failure in one["failures"]]
    wrong = sum(not one["ok"] for one in report["operators"].values())
    count = len(report["operators"])
    said = (
        f"{wrong} of {count} operators are wrong" if wrong else f"all {count} operators are right"
    )
    lines.append(f"backend {report['backend']}: {said}")
    return "\n".join(lines)
