"""Turns a Report into one self-contained HTML page and one CSV per chart and table."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from .cells import AS_PUBLISHED, SYMBOL, Cell, Parent
from .exhibit import Block, Datum, Exhibit, Prose, Report, Table, cells_of
from .palette import ACCENT, INK, PANEL, PAPER, RULE, SOFT
from .text import Language, Text, content, phrase

KINDS = ("computed", "measured", "cited", "empty")
MARKED = re.compile(r"`([^`]+)`|\[([\d¼½][^\]]*)\]")
CSV_COLUMNS = (
    "series_en",
    "series_zh",
    "item_en",
    "item_zh",
    "value",
    "unit",
    "low",
    "high",
    "text_en",
    "text_zh",
    "mark",
    "how_en",
    "how_zh",
    "source",
    "confidence",
    "date",
)


@dataclass
class Notes:
    """The parents of one exhibit's figures, numbered per kind in order of appearance."""

    anchor: str
    language: Language
    numbers: dict[Parent, int] = field(default_factory=dict)

    def number(self, parent: Parent) -> int:
        """The parent's number, a new one at its first appearance."""
        if parent not in self.numbers:
            alike = sum(known.kind == parent.kind for known in self.numbers)
            self.numbers[parent] = alike + 1
        return self.numbers[parent]

    def show(self, cell: Cell) -> Markup:
        """The figure with its mark, linked to the note."""
        kind, count = cell.parent.kind, self.number(cell.parent)
        label = f"{content('frame')[kind].to(self.language)} {count}"
        return Markup(
            '<span class="cell {kind}">{shown}<a class="mark" href="#{anchor}-{letter}{count}" '
            'aria-label="{label}">{symbol}{count}</a></span>'
        ).format(
            kind=kind,
            shown=cell.show(self.language),
            anchor=self.anchor,
            letter=kind[0] + kind[1],
            count=count,
            label=label,
            symbol=SYMBOL[kind],
        )

    def prose(self, prose: Prose) -> Markup:
        """A paragraph's inline content."""
        pieces = [
            self.show(piece) if isinstance(piece, Cell) else inline(piece)
            for piece in prose.pieces(self.language)
        ]
        return Markup("").join(pieces)

    def drawn(self, block: Block) -> Markup:
        """A chart's SVG; its figures are noted below like those of a table."""
        assert not isinstance(block, Prose | Table)
        for cell in cells_of(block):
            self.number(cell.parent)
        return Markup(block.draw(self.language))

    def listed(self) -> Iterator[tuple[str, str, int, Parent]]:
        """(id, symbol, number, parent) of every note, by kind."""
        for kind in KINDS:
            for parent, count in self.numbers.items():
                if parent.kind == kind:
                    yield f"{self.anchor}-{kind[:2]}{count}", SYMBOL[kind], count, parent


def note(parent: Parent, language: Language) -> Markup:
    """One note: how the figure was obtained, its source, confidence and date."""
    frame = content("frame")
    stop, colon = frame["stop"].to(language), frame["colon"].to(language)
    parts = [] if parent.how == AS_PUBLISHED else [inline(parent.how.to(language))]
    if parent.source:
        cite = Markup('<cite lang="en">{}</cite>').format(parent.source)
        parts.append(Markup("{}{}{}").format(frame["source"].to(language), colon, cite))
    if parent.confidence:
        word = phrase(parent.confidence).to(language)
        parts.append(Markup("{}{}{}").format(frame["confidence"].to(language), colon, word))
    if parent.date:
        parts.append(Markup('<span class="name">{}</span>').format(parent.date))
    return Markup(stop).join(parts)


def inline(text: str) -> Markup:
    """Escaped text with `code` between backticks and [inputs that we chose] in brackets."""
    parts = []
    for index, part in enumerate(MARKED.split(text)):
        wrap = ("{}", "<code>{}</code>", '<span class="given">{}</span>')[index % 3]
        parts.append(Markup(wrap).format(part) if part else Markup(""))
    return Markup("").join(parts)


@cache
def _environment() -> Environment:
    folder = files("dougong.plan.report")
    environment = Environment(
        loader=FunctionLoader(lambda name: folder.joinpath(name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["prose"] = lambda block: isinstance(block, Prose)
    environment.tests["table"] = lambda block: isinstance(block, Table)
    return environment


def render_html(report: Report, languages: Sequence[Language], facts: dict[str, str]) -> str:
    """The page: one article per language; `facts` are version, date and commit, printed as given.

    With two languages the first is shown until the reader follows the link to the other.
    """
    colours = {
        "paper": PAPER,
        "panel": PANEL,
        "ink": INK,
        "soft": SOFT,
        "rule": RULE,
        "accent": ACCENT,
    }
    style = _environment().get_template("style.css").render(colours=colours)
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            report=report,
            languages=languages,
            facts=facts,
            style=Markup(style),
            frame=content("frame"),
            notes_class=Notes,
            inline=inline,
            note=note,
            tally=tally(report),
            gaps=list(gaps(report)),
            kinds=[(kind, SYMBOL[kind]) for kind in KINDS],  # type: ignore[index]
        )
    )


def tally(report: Report) -> dict[str, int]:
    """How many figures carry each mark."""
    counts = dict.fromkeys(KINDS, 0)
    for cell in report.cells():
        counts[cell.parent.kind] += 1
    return counts


def gaps(report: Report) -> Iterator[tuple[Exhibit, list[Text]]]:
    """What each exhibit still lacks: the distinct texts of its empty figures."""
    for exhibit in report.exhibits():
        missing = {
            cell.parent.how: None
            for block in (exhibit.answer, *exhibit.blocks)
            for cell in cells_of(block)
            if cell.parent.kind == "empty"
        }
        if missing:
            yield exhibit, list(missing)


def csv_files(report: Report) -> Iterator[tuple[str, str]]:
    """(file name, text) of the figures behind every chart and table."""
    for exhibit in report.exhibits():
        for block in exhibit.blocks:
            if not isinstance(block, Prose):
                yield f"{block.key}.csv", _csv(block.data())


def _csv(data: Iterator[Datum]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for datum in data:
        cell, parent = datum.cell, datum.cell.parent
        texts = ("", "") if cell.text is None else (cell.text.en, cell.text.zh)
        numbers = ["" if v is None else repr(v) for v in (cell.value, cell.low, cell.high)]
        writer.writerow(
            [
                datum.series.en,
                datum.series.zh,
                datum.item.en,
                datum.item.zh,
                numbers[0],
                cell.unit.en.strip(),
                numbers[1],
                numbers[2],
                *texts,
                parent.kind,
                parent.how.en,
                parent.how.zh,
                parent.source,
                parent.confidence,
                parent.date,
            ]
        )
    return out.getvalue()
