"""A matrix of filled, half-filled and empty dots: who owns which layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .cells import SYMBOL, Cell
from .exhibit import Datum
from .palette import INK, PAPER, RULE, SOFT, style
from .svg import Canvas, text_width
from .text import Language, Text

ROW = 23
LEVELS = ("none", "partner", "own")


@dataclass(frozen=True)
class MatrixRow:
    """One player: a level of `LEVELS` per column and the cited phrase behind it."""

    label: Text
    group: Text
    levels: tuple[str, ...]
    cells: tuple[Cell, ...]
    total: Cell


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """Players against layers, grouped; a filled dot is one's own, a ring is a partner's."""

    key: str
    title: Text
    columns: tuple[Text, ...]
    total: Text
    legend: tuple[Text, Text]
    rows: tuple[MatrixRow, ...]

    def draw(self, language: Language) -> str:
        """The chart as an `<svg>` element."""
        left = 20 + max(text_width(row.label.to(language)) for row in self.rows)
        step = (640 - left) / len(self.columns)
        canvas = Canvas(len(self.rows) * ROW + 90.0, self.title.to(language), self.alt(language))
        self._draw_head(canvas, left, step, language)
        group, y = "", 50.0
        for row in self.rows:
            if row.group.en != group:
                group = row.group.en
                y += 8
                canvas.line(4, y - 1, 716, y - 1, INK if y > 60 else RULE, 0.8)
            canvas.text(left - 12, y + 16, row.label.to(language), anchor="end", kind="name")
            for index, level in enumerate(row.levels):
                x = left + (index + 0.5) * step
                canvas.line(x, y + 2, x, y + ROW - 2, RULE, 0.5)
                _dot(canvas, x, y + 12, level)
            canvas.cell(676, y + 16, row.total, language)
            y += ROW
        canvas.height = y + 8
        return canvas.render()

    def _draw_head(self, canvas: Canvas, left: float, step: float, language: Language) -> None:
        _dot(canvas, 12, 10, "own")
        own = self.legend[0].to(language)
        canvas.text(22, 14, own)
        at = 22 + text_width(own) + 24
        _dot(canvas, at, 10, "partner")
        canvas.text(at + 10, 14, f"{self.legend[1].to(language)}  {SYMBOL['cited']}")
        for index, column in enumerate(self.columns):
            canvas.text(
                left + (index + 0.5) * step, 44, column.to(language), anchor="middle", colour=SOFT
            )
        canvas.text(684, 44, self.total.to(language), anchor="middle", colour=SOFT)

    def alt(self, language: Language) -> str:
        """The chart in words: the own layers of each player."""
        parts = []
        for row in self.rows:
            own = [
                column.to(language)
                for column, level in zip(self.columns, row.levels, strict=True)
                if level == "own"
            ]
            parts.append(f"{row.label.to(language)}: {', '.join(own) or '—'}")
        return "; ".join(parts)

    def data(self) -> Iterator[Datum]:
        """The phrase behind every dot, and the totals."""
        for row in self.rows:
            for column, cell in zip(self.columns, row.cells, strict=True):
                yield Datum(column, row.label, cell)
            yield Datum(self.total, row.label, row.total)


def _dot(canvas: Canvas, x: float, y: float, level: str) -> None:
    if level == "own":
        canvas.marker(x, y, style(0), 6)
    elif level == "partner":
        canvas.parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{PAPER}" '
            f'stroke="{style(0).colour}" stroke-width="2"/>'
        )
