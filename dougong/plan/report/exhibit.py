"""What the report is made of, as data: chapters, exhibits, tables, prose and conclusions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from dougong.errors import InputError

from .cells import Cell
from .text import PLACE, Language, Text


@dataclass(frozen=True)
class Datum:
    """One figure of a chart or table as a CSV row: in which series, of which item."""

    series: Text
    item: Text
    cell: Cell


class Chart(Protocol):
    """Anything that draws itself from cells."""

    @property
    def key(self) -> str:
        """The name of its CSV file."""

    @property
    def title(self) -> Text:
        """What it shows, in a line."""

    def draw(self, language: Language) -> str:
        """The chart as an `<svg>` element."""

    def data(self) -> Iterator[Datum]:
        """Every figure behind it."""


@dataclass(frozen=True)
class Prose:
    """A paragraph whose `{name}` places are figures."""

    text: Text
    cells: Mapping[str, Cell] = field(default_factory=dict)

    def __post_init__(self) -> None:
        places = set(PLACE.findall(self.text.en))
        if places != set(self.cells):
            raise InputError(f"prose names {sorted(places)} but is given {sorted(self.cells)}")

    def pieces(self, language: Language) -> Iterator[str | Cell]:
        """Words and figures in reading order."""
        for index, piece in enumerate(PLACE.split(self.text.to(language))):
            yield self.cells[piece] if index % 2 else piece


@dataclass(frozen=True)
class Row:
    """A table row: its label and one cell per further column; a group row has no cells."""

    label: Text
    cells: tuple[Cell, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table; `columns` names the label's column first. `wide` prints across the page."""

    key: str
    title: Text
    columns: tuple[Text, ...]
    rows: tuple[Row, ...]
    wide: bool = False

    def __post_init__(self) -> None:
        for row in self.rows:
            if row.cells and len(row.cells) != len(self.columns) - 1:
                raise InputError(f"{self.key}: row {row.label.en!r} has {len(row.cells)} cells")

    def is_words(self, column: int) -> bool:
        """True if the column (0 is the first after the label's) holds phrases, not figures."""
        return any(row.cells[column].text is not None for row in self.rows if row.cells)

    def data(self) -> Iterator[Datum]:
        """Every cell with its column and row."""
        for row in self.rows:
            for column, cell in zip(self.columns[1:], row.cells, strict=False):
                yield Datum(column, row.label, cell)


Block = Prose | Table | Chart


@dataclass(frozen=True, kw_only=True)
class Exhibit:
    """One figure or table of the brief: its label, its answer in a sentence, and its blocks."""

    key: str
    label: Text
    title: Text
    answer: Prose
    blocks: tuple[Block, ...]


@dataclass(frozen=True, kw_only=True)
class Conclusion:
    """A claim with the command that supports it, its sensitivity and what would make it false."""

    key: str
    claim: Prose
    command: str
    sensitivity: Prose
    false_if: Prose


@dataclass(frozen=True, kw_only=True)
class Chapter:
    """A chapter under one of the brief's headings."""

    key: str
    title: Text
    introduction: tuple[Prose, ...]
    exhibits: tuple[Exhibit, ...] = ()
    conclusions: tuple[Conclusion, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Report:
    """The whole report; `highlights` answer the brief's key highlights."""

    highlights: tuple[tuple[Text, Prose], ...]
    chapters: tuple[Chapter, ...]

    def exhibits(self) -> Iterator[Exhibit]:
        """Every exhibit in order."""
        for chapter in self.chapters:
            yield from chapter.exhibits

    def cells(self) -> Iterator[Cell]:
        """Every figure of the report in order."""
        for _, prose in self.highlights:
            yield from prose.cells.values()
        for chapter in self.chapters:
            for prose in chapter.introduction:
                yield from prose.cells.values()
            for exhibit in chapter.exhibits:
                yield from exhibit.answer.cells.values()
                for block in exhibit.blocks:
                    yield from cells_of(block)
            for conclusion in chapter.conclusions:
                for prose in (conclusion.claim, conclusion.sensitivity, conclusion.false_if):
                    yield from prose.cells.values()


def cells_of(block: Block) -> Iterator[Cell]:
    """The figures of one block."""
    if isinstance(block, Prose):
        yield from block.cells.values()
    else:
        yield from (datum.cell for datum in block.data())
