"""Assembles the report's chapters under the brief's headings."""

from __future__ import annotations

from . import figure1, figure2, figure3, figure4, figure5, frontier, table1, table2, table3, table4
from .conclusions import conclusions
from .exhibit import Chapter, Prose, Report
from .highlights import highlights
from .measured import Results
from .text import content


def build(results: Results) -> Report:
    """The whole report; `results` fill its measured cells."""
    words = content("chapters")
    first = Chapter(
        key="chapter1",
        title=words["chapter1"],
        introduction=(Prose(words["chapter1_text"]),),
        exhibits=(
            figure1.exhibit(),
            table1.exhibit(),
            figure2.exhibit(),
            figure3.exhibit(results),
            table2.exhibit(),
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
