"""Bar charts: horizontal bars, shares that add up, pairs, and a waterfall."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .cells import Cell
from .exhibit import Datum
from .palette import INK, RULE, SOFT, style
from .svg import Canvas, Scale, text_width, tick_label
from .text import Language, Text

ROW = 26


@dataclass(frozen=True)
class Bar:
    """One bar: its label, its length, and the index of its category's style."""

    label: Text
    cell: Cell
    category: int = 0


@dataclass(frozen=True, kw_only=True)
class Bars:
    """Horizontal bars, longest scale from zero; `categories` name the styles that are used."""

    key: str
    title: Text
    axis: Text
    bars: tuple[Bar, ...]
    categories: tuple[Text, ...] = ()
    rules: tuple[tuple[Cell, Text], ...] = ()
    log: bool = False

    def draw(self, language: Language) -> str:
        """The chart as an `<svg>` element."""
        left = 14 + max(text_width(bar.label.to(language)) for bar in self.bars)
        canvas = Canvas(len(self.bars) * ROW + 70, self.title.to(language), self.alt(language))
        top = draw_legend(canvas, self.categories, language)
        values = [bar.cell.value for bar in self.bars if bar.cell.value is not None]
        low = min(values) / 2 if self.log else 0
        x = Scale(low, max(values) * (1.6 if self.log else 1), left, 600, self.log)
        bottom = top + len(self.bars) * ROW
        for value in x.ticks():
            canvas.line(x(value), top, x(value), bottom)
            canvas.text(
                x(value), bottom + 16, tick_label(value), anchor="middle", kind="tick", colour=SOFT
            )
        canvas.text(
            (left + 600) / 2, bottom + 34, self.axis.to(language), anchor="middle", colour=SOFT
        )
        self._draw_rules(canvas, x, top, bottom, language)
        for index, bar in enumerate(self.bars):
            y = top + index * ROW
            canvas.text(left - 8, y + 17, bar.label.to(language), anchor="end", kind="name")
            if bar.cell.value is not None:
                width = x(bar.cell.value) - left
                canvas.bar(left, y + 5, width, ROW - 10, style(bar.category))
                canvas.cell(left + width + 6, y + 17, bar.cell, language, backed=bool(self.rules))
            else:
                canvas.cell(left + 6, y + 17, bar.cell, language)
        canvas.height = bottom + 42 + 17 * len(self.rules)
        return canvas.render()

    def _draw_rules(
        self, canvas: Canvas, x: Scale, top: float, bottom: float, language: Language
    ) -> None:
        for index, (cell, name) in enumerate(self.rules):
            at, y = x(cell.value or x.low), bottom + 50 + 17 * index
            canvas.line(at, top - 2, at, y + 2, INK, 1.5, "5 3")
            prefix = name.to(language) + " "
            canvas.cell(at - 5, y, cell, language, anchor="end", prefix=prefix, backed=True)

    def alt(self, language: Language) -> str:
        """The chart in words."""
        return "; ".join(f"{b.label.to(language)} {b.cell.show(language)}" for b in self.bars)

    def data(self) -> Iterator[Datum]:
        """Every bar."""
        for bar in self.bars:
            series = self.categories[bar.category] if self.categories else self.axis
            yield Datum(series, bar.label, bar.cell)
        for cell, name in self.rules:
            yield Datum(self.axis, name, cell)


def draw_legend(canvas: Canvas, names: tuple[Text, ...], language: Language) -> float:
    """Named boxes in a row or more at the top; returns the y below them."""
    if not names:
        return 6
    x, y = 4.0, 4.0
    for index, name in enumerate(names):
        label = name.to(language)
        width = 22 + text_width(label) + 18
        if x + width > 716:
            x, y = 4.0, y + 20
        canvas.bar(x, y, 16, 12, style(index))
        canvas.text(x + 22, y + 10.5, label)
        x += width
    return y + 24


@dataclass(frozen=True)
class Stack:
    """One bar of parts that add up to a whole."""

    label: Text
    parts: tuple[Cell, ...]


@dataclass(frozen=True, kw_only=True)
class Stacks:
    """Bars cut into shares of the same whole (percent); one style per part."""

    key: str
    title: Text
    parts: tuple[Text, ...]
    stacks: tuple[Stack, ...]

    def draw(self, language: Language) -> str:
        """The chart as an `<svg>` element."""
        left = 14 + max(text_width(stack.label.to(language)) for stack in self.stacks)
        height = len(self.stacks) * 46.0 + 40
        canvas = Canvas(height, self.title.to(language), self.alt(language))
        top = draw_legend(canvas, self.parts, language)
        x = Scale(0, 100, left, 708)
        for index, stack in enumerate(self.stacks):
            y, at = top + index * 46, 0.0
            canvas.text(left - 8, y + 26, stack.label.to(language), anchor="end", kind="name")
            for part, cell in enumerate(stack.parts):
                share = cell.value or 0.0
                width = x(at + share) - x(at)
                canvas.bar(x(at), y + 16, width, 18, style(part))
                canvas.cell(x(at) + 2, y + 12, cell, language)
                at += share
        canvas.height = top + len(self.stacks) * 46 + 2
        return canvas.render()

    def alt(self, language: Language) -> str:
        """The chart in words."""
        return "; ".join(
            f"{stack.label.to(language)}: "
            + ", ".join(
                f"{name.to(language)} {cell.show(language)}"
                for name, cell in zip(self.parts, stack.parts, strict=True)
            )
            for stack in self.stacks
        )

    def data(self) -> Iterator[Datum]:
        """Every part of every bar."""
        for stack in self.stacks:
            for name, cell in zip(self.parts, stack.parts, strict=True):
                yield Datum(name, stack.label, cell)


@dataclass(frozen=True)
class Pair:
    """Two figures of one thing, in the same unit."""

    label: Text
    first: Cell
    second: Cell


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Two markers per row joined by a line: what it is in one unit and in another."""

    key: str
    title: Text
    axis: Text
    names: tuple[Text, Text]
    pairs: tuple[Pair, ...]
    log: bool = False

    def draw(self, language: Language) -> str:
        """The chart as an `<svg>` element."""
        left = 70 + max(text_width(pair.label.to(language)) for pair in self.pairs)
        canvas = Canvas(len(self.pairs) * ROW + 74, self.title.to(language), self.alt(language))
        for index, name in enumerate(self.names):
            canvas.marker(12 + index * 260, 11, style(index))
            canvas.text(24 + index * 260, 15, name.to(language))
        top, bottom = 28, 28 + len(self.pairs) * ROW
        values = [cell.value or 0.0 for p in self.pairs for cell in (p.first, p.second)]
        low, high = (min(values) / 1.2, max(values) * 1.1) if self.log else (0.0, max(values))
        x = Scale(low, high, left, 640, self.log)
        for value in x.ticks():
            canvas.line(x(value), top, x(value), bottom)
            canvas.text(
                x(value), bottom + 16, tick_label(value), anchor="middle", kind="tick", colour=SOFT
            )
        canvas.text(
            (left + 640) / 2, bottom + 34, self.axis.to(language), anchor="middle", colour=SOFT
        )
        for index, pair in enumerate(self.pairs):
            y = top + index * ROW + ROW / 2
            canvas.text(left - 62, y + 4, pair.label.to(language), anchor="end", kind="name")
            ends = (pair.first.value or 0.0, pair.second.value or 0.0)
            canvas.line(x(ends[0]), y, x(ends[1]), y, SOFT, 2)
            small = 0 if ends[0] <= ends[1] else 1
            for which, cell in enumerate((pair.first, pair.second)):
                canvas.marker(x(ends[which]), y, style(which))
                side, anchor = (-9, "end") if which == small else (9, "start")
                canvas.cell(x(ends[which]) + side, y + 4, cell, language, anchor=anchor)
        canvas.height = bottom + 42
        return canvas.render()

    def alt(self, language: Language) -> str:
        """The chart in words."""
        return "; ".join(
            f"{p.label.to(language)} {p.first.show(language)}, {p.second.show(language)}"
            for p in self.pairs
        )

    def data(self) -> Iterator[Datum]:
        """Both figures of every row."""
        for pair in self.pairs:
            yield Datum(self.names[0], pair.label, pair.first)
            yield Datum(self.names[1], pair.label, pair.second)


@dataclass(frozen=True)
class Step:
    """A stage of a waterfall: the level reached and the factor over the stage before."""

    label: Text
    level: Cell
    factor: Cell | None = None


@dataclass(frozen=True, kw_only=True)
class Waterfall:
    """Levels reached one measure after another, on a logarithmic axis so factors compare."""

    key: str
    title: Text
    axis: Text
    steps: tuple[Step, ...]

    def draw(self, language: Language) -> str:
        """The chart as an `<svg>` element."""
        row = 34
        left = 14 + max(text_width(step.label.to(language)) for step in self.steps)
        canvas = Canvas(len(self.steps) * row + 60.0, self.title.to(language), self.alt(language))
        levels = [step.level.value or 1.0 for step in self.steps]
        x = Scale(min(levels) / 1.5, max(levels) * 1.3, left, 590, log=True)
        bottom = 8 + len(self.steps) * row
        for value in x.ticks():
            canvas.line(x(value), 8, x(value), bottom)
            canvas.text(
                x(value), bottom + 16, tick_label(value), anchor="middle", kind="tick", colour=SOFT
            )
        before = x.low
        for index, (step, level) in enumerate(zip(self.steps, levels, strict=True)):
            y = 8 + index * row
            canvas.text(left - 8, y + 21, step.label.to(language), anchor="end", kind="name")
            start, stop = sorted((x(before), x(level)))
            look = 0 if index == 0 else (2 if level >= before else 1)
            canvas.bar(start, y + 8, stop - start, row - 16, style(look))
            if index:
                canvas.line(x(before), y - row + 26, x(before), y + 8, INK)
            canvas.cell(stop + 6, y + 15, step.level, language)
            if step.factor is not None:
                canvas.cell(stop + 6, y + 29, step.factor, language, colour=SOFT)
            before = level
        canvas.line(left, 8, left, bottom, RULE)
        canvas.text(
            (left + 590) / 2, bottom + 34, self.axis.to(language), anchor="middle", colour=SOFT
        )
        canvas.height = bottom + 42
        return canvas.render()

    def alt(self, language: Language) -> str:
        """The chart in words."""
        return "; ".join(f"{s.label.to(language)} {s.level.show(language)}" for s in self.steps)

    def data(self) -> Iterator[Datum]:
        """Every level and factor."""
        for step in self.steps:
            yield Datum(self.axis, step.label, step.level)
            if step.factor is not None:
                yield Datum(Text("factor", "倍數"), step.label, step.factor)
