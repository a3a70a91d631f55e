"""Plots of figures against figures: lines, scatter with labels that avoid each other, a matrix."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .cells import SYMBOL, Cell
from .exhibit import Datum
from .palette import INK, SOFT, style
from .svg import Canvas, Scale, draw_axes, text_width
from .text import Language, Text

Box = tuple[float, float, float, float]  # left, top, right, bottom in px

LEFT, RIGHT, TOP = 64, 560, 30


@dataclass(frozen=True)
class Line:
    """A named series: x values that we chose, y figures; empty figures interrupt nothing."""

    name: Text
    points: tuple[tuple[float, Cell], ...]
    look: int


@dataclass(frozen=True)
class Rule:
    """A vertical line at a threshold of x."""

    at: Cell
    label: Text


@dataclass(frozen=True, kw_only=True)
class Lines:
    """Lines with their names at the right end; markers and dashes tell them apart in grey."""

    key: str
    title: Text
    x_title: Text
    y_title: Text
    lines: tuple[Line, ...]
    x_ticks: tuple[tuple[float, str], ...] = ()
    log_x: bool = True
    log_y: bool = True
    rules: tuple[Rule, ...] = ()
    marks: bool = True

    def draw(self, language: Language) -> str:
        """The chart as an `<svg>` element."""
        canvas = Canvas(370, self.title.to(language), self.alt(language))
        xs = [x for line in self.lines for x, _ in line.points]
        ys = [c.value for line in self.lines for _, c in line.points if c.value is not None]
        x = Scale(min(xs), max(xs), LEFT, RIGHT, self.log_x)
        room = 1.15 if self.log_y else 1.04
        y = Scale(min(ys) / room if self.log_y else 0.0, max(ys) * room, 320, TOP, self.log_y)
        draw_axes(canvas, x, y, self.x_title.to(language), self.y_title.to(language), self.x_ticks)
        for rule in self.rules:
            at = x(rule.at.value or x.low)
            canvas.line(at, 320, at, TOP, INK, 1.5, "5 3")
        for index, rule in enumerate(self.rules):
            canvas.cell(
                x(rule.at.value or x.low) + 4,
                TOP + 12 + 16 * index,
                rule.at,
                language,
                prefix=rule.label.to(language) + " ",
                backed=True,
            )
        ends = []
        for line in self.lines:
            look = style(line.look)
            spots = [(x(a), y(c.value)) for a, c in line.points if c.value is not None]
            canvas.path(spots, look)
            for spot in spots if self.marks else ():
                canvas.marker(*spot, look, 4)
            ends.append(spots[-1][1])
        for line, at in zip(self.lines, spread(ends, 30), strict=True):
            look, last = style(line.look), line.points[-1][1]
            canvas.marker(RIGHT + 14, at - 4, look, 4)
            canvas.text(RIGHT + 23, at, line.name.to(language), colour=look.colour, bold=True)
            canvas.cell(RIGHT + 23, at + 14, last, language)
        return canvas.render()

    def alt(self, language: Language) -> str:
        """The chart in words: the last value of each line."""
        return "; ".join(
            f"{line.name.to(language)} {line.points[-1][1].show(language)}" for line in self.lines
        )

    def data(self) -> Iterator[Datum]:
        """Every point; the item is the x value."""
        for rule in self.rules:
            yield Datum(self.x_title, rule.label, rule.at)
        for line in self.lines:
            for x, cell in line.points:
                yield Datum(line.name, Text(f"{x:g}", f"{x:g}"), cell)


def spread(positions: Sequence[float], gap: float) -> list[float]:
    """Moves label positions apart to at least `gap` px, keeping their order and their middle."""
    order = sorted(range(len(positions)), key=lambda i: positions[i])
    placed = [positions[i] for i in order]
    for _ in range(60):
        for k in range(1, len(placed)):
            lack = gap - (placed[k] - placed[k - 1])
            if lack > 0:
                placed[k - 1] -= lack / 2
                placed[k] += lack / 2
    result = [0.0] * len(positions)
    for place, index in zip(placed, order, strict=True):
        result[index] = place
    return result


@dataclass(frozen=True)
class Point:
    """One thing at two figures; `frontier` points are joined, `first` ones get labels first."""

    label: Text
    x: Cell
    y: Cell
    group: int
    frontier: bool = False
    first: bool = False


@dataclass(frozen=True, kw_only=True)
class Scatter:
    """Points by group, an optional frontier, and guide lines y = factor * x.

    Labels that find no free place are left out: their figures stand in the CSV and the tables.
    """

    key: str
    title: Text
    x_title: Text
    y_title: Text
    groups: tuple[Text, ...]
    points: tuple[Point, ...]
    log_x: bool = True
    log_y: bool = False
    guides: tuple[tuple[float, Text], ...] = ()
    height: int = 420

    def draw(self, language: Language) -> str:
        """The chart as an `<svg>` element."""
        canvas = Canvas(self.height, self.title.to(language), self.alt(language))
        bottom, top = self.height - 50, 66
        x = self._scale([p.x for p in self.points], LEFT, 700, self.log_x)
        y = self._scale([p.y for p in self.points], bottom, top, self.log_y)
        draw_axes(canvas, x, y, self.x_title.to(language), self.y_title.to(language))
        at, line = 4.0, 10
        for index, name in enumerate(self.groups):
            width = 34 + text_width(name.to(language))
            if at + width > 716:
                at, line = 4.0, line + 19
            canvas.marker(at + 8, line, style(index))
            canvas.text(at + 18, line + 4, name.to(language))
            at += width
        names = self._draw_guides(canvas, x, y, language)
        ends = [p for p in self.points if p.frontier]
        ends.sort(key=lambda p: p.x.value or 0.0)
        if len(ends) > 1:
            canvas.path([(x(p.x.value or 1), y(p.y.value or 1)) for p in ends], style(5), 1.5)
        spots = [(x(p.x.value or 1), y(p.y.value or 1)) for p in self.points]
        for point, spot in zip(self.points, spots, strict=True):
            canvas.marker(*spot, style(point.group))
        self._draw_labels(canvas, spots, (LEFT, 716, top - 8, bottom), names, language)
        return canvas.render()

    def _draw_labels(
        self,
        canvas: Canvas,
        spots: Sequence[tuple[float, float]],
        bounds: tuple[float, float, float, float],
        names: Sequence[Box],
        language: Language,
    ) -> None:
        order = sorted(range(len(spots)), key=lambda i: (not self.points[i].first, spots[i]))
        labels = [
            f"{self.points[i].label.to(language)} {SYMBOL[self.points[i].y.parent.kind]}"
            for i in order
        ]
        places = place_labels(labels, [spots[i] for i in order], bounds, names)
        for index, label, place in zip(order, labels, places, strict=True):
            if place is None:
                continue
            (sx, sy), (left, base), width = spots[index], place, text_width(label)
            if abs(base - sy) > 22:  # a leader from the point to the label's nearest edge
                near = min(max(sx, left + 2), left + width - 2)
                canvas.line(sx, sy, near, base + 3 if base < sy else base - 11, SOFT, 0.7)
            canvas.text(*place, label, kind="name")

    def _draw_guides(self, canvas: Canvas, x: Scale, y: Scale, language: Language) -> list[Box]:
        """The guide lines; returns where their names stand."""
        names: list[Box] = []
        for factor, name in self.guides:
            low, high = max(x.low, y.low / factor), min(x.high, y.high / factor)
            if low < high:
                canvas.line(x(low), y(low * factor), x(high), y(high * factor), SOFT, 1, "4 3")
                end, base, words = x(high) - 4, y(high * factor) + 14, name.to(language)
                canvas.text(end, base, words, anchor="end", kind="tick", colour=SOFT, size=11)
                names.append((end - text_width(words), base - 11, end, base + 3))
        return names

    @staticmethod
    def _scale(cells: Sequence[Cell], start: float, stop: float, log: bool) -> Scale:
        values = [cell.value for cell in cells if cell.value is not None]
        low, high = min(values), max(values)
        if log:
            return Scale(low / 1.35, high * 1.35, start, stop, True)
        margin = 0.12 * (high - low or 1)
        return Scale(max(low - margin, 0) if low >= 0 else low, high + margin, start, stop)

    def alt(self, language: Language) -> str:
        """The chart in words."""
        return "; ".join(
            f"{p.label.to(language)}: {p.x.show(language)}, {p.y.show(language)}"
            for p in self.points
        )

    def data(self) -> Iterator[Datum]:
        """Both figures of every point."""
        for point in self.points:
            yield Datum(self.x_title, point.label, point.x)
            yield Datum(self.y_title, point.label, point.y)


def place_labels(
    labels: Sequence[str],
    spots: Sequence[tuple[float, float]],
    bounds: tuple[float, float, float, float],
    occupied: Sequence[Box] = (),
) -> list[tuple[float, float] | None]:
    """A baseline point for each label: near its spot, inside the bounds (left, right, top,
    bottom), upon no spot, no other label and nothing occupied; or None.

    Greedy, in the order given; the first free of a fixed list of places wins.
    """
    left, right, top, bottom = bounds
    taken = [*occupied, *((sx - 6, sy - 6, sx + 6, sy + 6) for sx, sy in spots)]
    placed: list[tuple[float, float] | None] = []
    for label, (sx, sy) in zip(labels, spots, strict=True):
        width = text_width(label) + 2
        best = None
        for dx, dy in _offsets(width):
            area = (sx + dx, sy + dy - 11, sx + dx + width, sy + dy + 3)
            inside = area[0] > left and area[2] < right and area[1] > top and area[3] < bottom
            if inside and not any(_overlap(area, other) for other in taken):
                best = (sx + dx, sy + dy)
                taken.append(area)
                break
        placed.append(best)
    return placed


def _offsets(width: float) -> Iterator[tuple[float, float]]:
    """Where a label of this width may stand, best place first."""
    for dy in (4, -10, 20, -24, 34):
        yield from ((9, dy), (-9 - width, dy))
        if dy != 4:  # above or below its spot a label may also cross it
            yield from ((-width / 2, dy), (40 - width, dy))


def _overlap(one: Box, other: Box) -> bool:
    apart = one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
    return not apart
