"""Assembles the report under the brief's headings, and writes it to a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dougong.errors import InputError

from . import figure1, figure2, figure3, figure4, figure5, frontier, table1, table2, table3, table4
from .conclusions import conclusions
from .exhibit import Chapter, Prose, Report
from .highlights import highlights
from .measured import Results
from .render import csv_files, gaps, render_html, tally
from .text import Language, content

PAGE, DATA_FOLDER = "report.html", "data"


def build(results: Results) -> Report:
    """The whole report; `results` fill its measured cells."""
    words = content("chapters")
    first = Chapter(
        key="chapter1",
        title=words["chapter1"],
        introduction=(Prose(words["chapter1_text"]),),
        exhibits=(
            figure1.exhibit(),
            table1.exhibit(results),
            figure2.exhibit(),
            figure3.exhibit(results),
            table2.exhibit(results),
            table3.exhibit(results),
        ),
    )
    second = Chapter(
        key="chapter2",
        title=words["chapter2"],
        introduction=(Prose(words["chapter2_text"]),),
        exhibits=(figure4.exhibit(), figure5.exhibit(), table4.exhibit(results)),
    )
    third = Chapter(
        key="chapter3",
        title=words["chapter3"],
        introduction=(Prose(words["chapter3_text"]),),
        exhibits=(frontier.exhibit(),),
        conclusions=conclusions(),
    )
    return Report(highlights=highlights(), chapters=(first, second, third))


def write_report(
    out: Path, languages: Sequence[Language], results: Results, facts: dict[str, str]
) -> dict[str, Any]:
    """Writes OUT/report.html and OUT/data/*.csv, over what is there; returns what `--json` prints.

    `facts` are the version and date printed on the cover.
    Raises: InputError if the folder cannot be made or written.
    """
    report = build(results)
    pages = {Path(PAGE): render_html(report, languages, facts)}
    pages |= {Path(DATA_FOLDER, name): text for name, text in csv_files(report)}
    try:
        (out / DATA_FOLDER).mkdir(parents=True, exist_ok=True)
        for name, text in pages.items():
            (out / name).write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise InputError(
            f"{out}: the report cannot be written there ({error.strerror}); "
            "give --out a folder that you may write to"
        ) from None
    return {
        "html": str(out / PAGE),
        "csv": [str(out / name) for name in pages if name.suffix == ".csv"],
        "languages": list(languages),
        "exhibits": [exhibit.key for exhibit in report.exhibits()],
        "figures": tally(report),
        "empty": [
            {"exhibit": exhibit.key, "fill": text.en}
            for exhibit, texts in gaps(report)
            for text in texts
        ],
        "conclusions": [
            {"key": one.key, "command": one.command}
            for chapter in report.chapters
            for one in chapter.conclusions
        ],
    }
