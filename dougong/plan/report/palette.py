"""Ink, colours, markers and hatches: readable in grey, by colour-blind readers and on paper.

No series is told apart by colour alone: each style also has its own marker, dash and hatch. Every
colour is dark enough to be used as text on white (WCAG AA, 4.5 : 1); a test computes it.
"""

from __future__ import annotations

from dataclasses import dataclass

PAPER = "#ffffff"
PANEL = "#f4f2ec"
INK = "#1c2126"
SOFT = "#4a535c"
RULE = "#c9c5ba"
ACCENT = "#8f2d1f"


@dataclass(frozen=True)
class Style:
    """How one series looks: colour, marker shape, dash pattern and hatch of its areas."""

    colour: str
    marker: str
    dash: str
    hatch: str


STYLES: tuple[Style, ...] = (
    Style("#0a5c9e", "circle", "", "solid"),
    Style("#b3410a", "square", "7 3", "diagonal"),
    Style("#146b4c", "triangle", "2 3", "dots"),
    Style("#76408f", "diamond", "9 3 2 3", "cross"),
    Style("#7d5f00", "inverted", "4 2", "horizontal"),
    Style("#2f3a45", "plus", "1 2", "vertical"),
    Style("#56616b", "ring", "12 4", "empty"),
)


def style(index: int) -> Style:
    """The style of the series with this index; they repeat after the seventh."""
    return STYLES[index % len(STYLES)]


def luminance(colour: str) -> float:
    """Relative luminance of `#rrggbb`, 0 to 1 (WCAG 2.2)."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two `#rrggbb` colours, 1 to 21 (WCAG 2.2)."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)
