"""The report, built and parsed once for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from justhtml import JustHTML

from dougong.plan.report.build import build
from dougong.plan.report.exhibit import Report
from dougong.plan.report.measured import Results
from dougong.plan.report.render import render_html

# Text inside these is not prose: figures, their marks and notes, names, inputs, references.
NOT_PROSE = {"cell", "mark", "notes", "given", "count", "name", "tick", "ordinal"}
NOT_READ = {"style", "code", "cite"}
BLOCKS = {"td", "th", "p", "dd", "dt", "li", "h1", "h2", "h3", "figcaption", "text"}


@pytest.fixture(scope="session")
def report() -> Report:
    return build(Results())


@pytest.fixture(scope="session")
def html(report: Report) -> str:
    return render_html(report, ("en", "zh-Hant"), {"version": "0.0", "date": "2026-11-23"})


@pytest.fixture(scope="session")
def page(html: str) -> JustHTML:
    """Parsed strictly: any error of the HTML standard's parser raises."""
    return JustHTML(html, sanitize=False, strict=True)


class Words:
    """What is written inside a node, with or without the figures."""

    @staticmethod
    def classes(node: object) -> set[str]:
        return set((getattr(node, "attrs", None) or {}).get("class", "").split())

    @classmethod
    def pieces(cls, node: object, skip: set[str]) -> Iterator[str]:
        for child in getattr(node, "children", None) or []:
            if child.name == "#text":
                yield child.data
            elif not child.name.startswith("#"):
                if child.name in NOT_READ or cls.classes(child) & skip:
                    continue
                yield from cls.pieces(child, skip)
                if child.name in BLOCKS:
                    yield " "

    @classmethod
    def prose(cls, node: object) -> str:
        """Words only: no figure, no note, no name."""
        return "".join(cls.pieces(node, NOT_PROSE))

    @classmethod
    def read(cls, node: object) -> str:
        """What a reader reads: words and figures, without marks and notes."""
        return " ".join("".join(cls.pieces(node, {"mark", "notes", "symbol"})).split())


@pytest.fixture(scope="session")
def words() -> type[Words]:
    return Words
