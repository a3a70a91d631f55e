"""Assembles the report's chapters under the brief's headings."""

from __future__ import annotations

from . import figure1
from .exhibit import Chapter, Prose, Report
from .text import content


def build() -> Report:
    """The whole report."""
    words = content("chapters")
    first = Chapter(
        key="chapter1",
        title=words["chapter1"],
        introduction=(Prose(words["chapter1_text"]),),
        exhibits=(figure1.exhibit(),),
    )
    return Report(highlights=(), chapters=(first,))
