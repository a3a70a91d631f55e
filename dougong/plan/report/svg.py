"""A small SVG writer for charts: a canvas, text metrics, axes; text stays text."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape

from .cells import SYMBOL, Cell
from .palette import INK, PAPER, RULE, SOFT, Style
from .text import Language

WIDTH = 720
SIZE = 12  # px at WIDTH; about 8.5 pt on A4


def text_width(text: str, size: float = SIZE) -> float:
    """Estimated width in px: Chinese characters are square, Latin letters about half."""
    ems = 0.0
    for char in text:
        if ord(char) > 0x2E7F:
            ems += 1.0
        elif char in "iljtfI.,:;'|!()[] \u202f":
            ems += 0.31
        else:
            ems += 0.68 if char.isupper() or char in "mwMW%×" else 0.56
    return ems * size


@dataclass
class Canvas:
    """SVG elements in drawing order; `alt` is read to people who cannot see the chart."""

    height: float
    title: str
    alt: str
    width: float = WIDTH
    parts: list[str] = field(default_factory=list)

    def line(
        self,
        x1: float,
        y1: float,
        x2: float,
        y2: float,
        stroke: str = RULE,
        width: float = 1,
        dash: str = "",
    ) -> None:
        """A straight line."""
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        self.parts.append(
            f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" '
            f'stroke="{stroke}" stroke-width="{width:g}"{dashed}/>'
        )

    def rect(
        self, x: float, y: float, width: float, height: float, fill: str, stroke: str = "none"
    ) -> None:
        """A rectangle; negative sizes are drawn as nothing."""
        self.parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" '
            f'height="{max(height, 0):.1f}" fill="{fill}" stroke="{stroke}"/>'
        )

    def bar(self, x: float, y: float, width: float, height: float, style: Style) -> None:
        """An area in a series' colour and hatch; its hatch is lines, so that it prints sharp."""
        solid = style.hatch == "solid"
        self.rect(x, y, width, height, style.colour if solid else PAPER, style.colour)
        drawn = hatch_path(style.hatch, x, y, max(width, 0.0), height)
        if drawn:
            dots = ' stroke-dasharray="0 6" stroke-linecap="round"'
            look = f' stroke-width="2.6"{dots}' if style.hatch == "dots" else ' stroke-width="1.4"'
            self.parts.append(f'<path d="{drawn}" stroke="{style.colour}"{look}/>')

    def path(self, points: Sequence[tuple[float, float]], style: Style, width: float = 2) -> None:
        """A polyline in a series' colour and dash."""
        steps = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dashed = f' stroke-dasharray="{style.dash}"' if style.dash else ""
        self.parts.append(
            f'<polyline points="{steps}" fill="none" stroke="{style.colour}" '
            f'stroke-width="{width:g}"{dashed}/>'
        )

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        anchor: str = "start",
        kind: str = "words",
        colour: str = INK,
        size: float = SIZE,
        bold: bool = False,
        turn: bool = False,
    ) -> None:
        """Words at a baseline point; `kind` becomes the class: words, tick, name."""
        turned = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turn else ""
        weight = ' font-weight="600"' if bold else ""
        self.parts.append(
            f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" '
            f'font-size="{size:g}" fill="{colour}"{weight}{turned}>{escape(text)}</text>'
        )

    def cell(
        self,
        x: float,
        y: float,
        cell: Cell,
        language: Language,
        *,
        anchor: str = "start",
        colour: str = INK,
        prefix: str = "",
        backed: bool = False,
    ) -> None:
        """A figure with its mark's symbol behind it; `backed` hides lines that pass behind."""
        kind = cell.parent.kind
        shown = escape(cell.show(language))
        if backed:
            width = text_width(f"{prefix}{cell.show(language)} {SYMBOL[kind]}")
            self.rect(x - (width if anchor == "end" else 0), y - 11, width, 14, PAPER)
        self.parts.append(
            f'<text class="cell {kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" '
            f'font-size="{SIZE}" fill="{colour}">{escape(prefix)}{shown}'
            f'<tspan class="symbol" font-size="10" fill="{SOFT}"> {SYMBOL[kind]}</tspan></text>'
        )

    def marker(self, x: float, y: float, style: Style, radius: float = 5) -> None:
        """A series' marker, outlined in white so that overlaps stay readable."""
        r, colour = radius, style.colour
        outline = f'fill="{colour}" stroke="{PAPER}" stroke-width="1"'
        corners = {
            "square": [(-r, -r), (r, -r), (r, r), (-r, r)],
            "triangle": [(0, -1.2 * r), (1.1 * r, r), (-1.1 * r, r)],
            "inverted": [(0, 1.2 * r), (1.1 * r, -r), (-1.1 * r, -r)],
            "diamond": [(0, -1.3 * r), (1.3 * r, 0), (0, 1.3 * r), (-1.3 * r, 0)],
        }.get(style.marker)
        if corners:
            steps = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners)
            self.parts.append(f'<polygon points="{steps}" {outline}/>')
        elif style.marker == "plus":
            self.line(x - r, y, x + r, y, colour, 3)
            self.line(x, y - r, x, y + r, colour, 3)
        elif style.marker == "ring":
            self.parts.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r:g}" fill="{PAPER}" '
                f'stroke="{colour}" stroke-width="2"/>'
            )
        else:
            self.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r:g}" {outline}/>')

    def render(self) -> str:
        """The finished `<svg>` element."""
        return (
            f'<svg role="img" viewBox="0 0 {self.width:g} {self.height:g}" '
            f'aria-label="{escape(self.title)}: {escape(self.alt)}">'
            + "".join(self.parts)
            + "</svg>"
        )


def hatch_path(hatch: str, x: float, y: float, width: float, height: float) -> str:
    """Path data of a hatch, six px apart, clipped to the rectangle."""
    lines = []
    if hatch in ("horizontal", "dots"):
        for k in range(int(height / 6)):
            at = y + 3 + 6 * k
            lines.append((x + 3, at, x + width - 2, at))
    if hatch == "vertical":
        lines += [(x + 3 + 6 * k, y, x + 3 + 6 * k, y + height) for k in range(int(width / 6))]
    if hatch in ("diagonal", "cross"):
        for k in range(1, int((width + height) / 6) + 1):  # the line on which dx + dy = c
            c = 6.0 * k
            left, right = max(0.0, c - height), min(width, c)
            if right > left:
                lines.append((x + left, y + c - left, x + right, y + c - right))
                if hatch == "cross":
                    lines.append(
                        (x + left, y + height - c + left, x + right, y + height - c + right)
                    )
    return "".join(f"M{a:.1f} {b:.1f}L{c:.1f} {d:.1f}" for a, b, c, d in lines if c > a or d > b)


@dataclass(frozen=True)
class Scale:
    """Maps values [low, high] to pixels [start, stop], linear or logarithmic (base 10)."""

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Pixel of `value`."""
        f: Callable[[float], float] = math.log10 if self.log else float
        share = (f(value) - f(self.low)) / (f(self.high) - f(self.low))
        return self.start + share * (self.stop - self.start)

    def ticks(self) -> list[float]:
        """Round values inside the range: decades (with 2 and 5 if few), or about five steps."""
        if self.log:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            steps = (1, 2, 5) if last - first <= 3 else (1,)
            values = [m * 10.0**e for e in range(first, last + 1) for m in steps]
        else:
            raw = (self.high - self.low) / 5
            base = 10.0 ** math.floor(math.log10(raw))
            step = next(m * base for m in (1, 2, 2.5, 5, 10) if m * base >= raw)
            values = [k * step for k in range(math.floor(self.low / step), 200)]
        slack = 1e-9 * abs(self.high)
        return [v for v in values if self.low - slack <= v <= self.high + slack]


def tick_label(value: float) -> str:
    """A short axis label: 1k, 10k, 1M above a thousand."""
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{suffix}"
    return f"{value:g}".replace("-", "−")


def draw_axes(
    canvas: Canvas,
    x: Scale,
    y: Scale,
    x_title: str,
    y_title: str,
    x_ticks: Sequence[tuple[float, str]] = (),
) -> None:
    """Grid, tick labels and titles; `x_ticks` replaces the automatic ones."""
    for value in y.ticks():
        canvas.line(x.start, y(value), x.stop, y(value))
        canvas.text(
            x.start - 6, y(value) + 4, tick_label(value), anchor="end", kind="tick", colour=SOFT
        )
    for value, label in x_ticks or [(v, tick_label(v)) for v in x.ticks()]:
        canvas.line(x(value), y.start, x(value), y.start + 4, SOFT)
        canvas.text(x(value), y.start + 17, label, anchor="middle", kind="tick", colour=SOFT)
    canvas.line(x.start, y.start, x.stop, y.start, SOFT)
    canvas.text(
        (x.start + x.stop) / 2, y.start + 36, x_title, anchor="middle", kind="words", colour=SOFT
    )
    canvas.text(4, y.stop - 12, y_title, kind="words", colour=SOFT)
