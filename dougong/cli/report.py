"""`dougong report`: the brief's exhibits as one HTML page, and the figures behind them as CSV."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from dougong import __version__
from dougong.cli import options


@click.command("report")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="Folder for report.html and data/*.csv; files of the same name are replaced.",
)
@click.option(
    "--lang",
    type=click.Choice(["en", "zh-Hant", "both"]),
    default="both",
    show_default=True,
    help="Language of the page; `both` puts a switch on it.",
)
@click.option(
    "--results",
    type=click.Path(path_type=Path),
    default=None,
    metavar="DIR",
    help="Folder of *.jsonl written by --record. [default: bench/results, if there is one]",
)
@options.json_option
def command(out: Path, lang: str, results: Path | None, as_json: bool) -> None:
    """Write the report: which model on which chip, in which format and policy, and what it costs.

    One self-contained page that loads nothing and prints well. Every figure on it is marked as
    computed, measured, cited or empty.

    \b
    Examples:
      dougong report --out report
      dougong report --out report --lang zh-Hant --json

    \b
    JSON: html, csv, languages, exhibits, figures (computed, measured, cited, empty), empty
    (exhibit, fill), conclusions (key, command)
    """
    from dougong.plan.report.build import write_report
    from dougong.plan.report.measured import load_results
    from dougong.plan.report.text import LANGUAGES

    languages = [language for language in LANGUAGES if lang in ("both", language)]
    day = datetime.now(UTC).date().isoformat()
    summary = write_report(
        out, languages, load_results(results), {"version": __version__, "date": day}
    )
    figures = ", ".join(f"{count} {kind}" for kind, count in summary["figures"].items())
    options.emit(
        summary,
        as_json,
        f"{summary['html']}: {len(summary['exhibits'])} exhibits, {figures}; "
        f"{len(summary['csv'])} CSV files beside it",
    )
