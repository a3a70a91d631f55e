"""A figure of the report and its parent: computed, measured, cited or empty, and never without.

Every number that the report prints is a Cell. Its Parent says how it was obtained: the formula,
the command, what a publication states, or what would fill the gap.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from dougong.errors import InputError
from dougong.plan.quantity import Mark, Quantity

from .text import Language, Text, same

NO_UNIT = same("")
AS_PUBLISHED = Text("as published", "原文所載")
SYMBOL: dict[Mark, str] = {"computed": "ƒ", "measured": "◎", "cited": "¶", "empty": "∅"}


@dataclass(frozen=True, kw_only=True)
class Parent:
    """Where a figure comes from.

    `how` is the formula (computed), the command (measured), what is stated (cited) or what would
    fill it (empty); `source` is a reference and stays in its own language.
    """

    kind: Mark
    how: Text
    source: str = ""
    confidence: str = ""
    date: str = ""

    def __post_init__(self) -> None:
        if self.kind in ("computed", "cited", "measured") and not self.source.strip():
            raise InputError(f"a {self.kind} figure needs its source: {self.how.en}")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One figure: a number with a unit, or a cited phrase; `value` and `text` are None if empty.

    `digits` are significant digits when printed; `low` and `high` bound a prediction.
    """

    parent: Parent
    value: float | None = None
    text: Text | None = None
    unit: Text = NO_UNIT
    digits: int = 3
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        is_empty = self.value is None and self.text is None
        if is_empty != (self.parent.kind == "empty"):
            raise InputError(f"a cell is {self.parent.kind} but holds {self.value}: {self.parent}")

    def show(self, language: Language) -> str:
        """The figure as printed, its unit included; an empty one prints its symbol only."""
        if self.text is not None:
            return self.text.to(language)
        if self.value is None:
            return "—"
        shown = number(self.value, self.digits)
        if self.low is not None and self.high is not None:
            shown += f" [{number(self.low, self.digits)}–{number(self.high, self.digits)}]"
        unit = self.unit.to(language).strip()
        joint = "" if unit in ("%", "×", "") else "\u202f"
        return f"{shown}{joint}{unit}"


def number(value: float, digits: int) -> str:
    """Decimal notation with thousands separators: integers exact, others to `digits` places."""
    if isinstance(value, int):
        return f"{value:,}".replace("-", "−")
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else "∞"
    rounded = float(f"{value:.{digits - 1}e}")  # first, so that 0.9996 has 1.00's decimals
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(rounded))))
    return f"{rounded:,.{decimals}f}".replace("-", "−")


def computed(
    value: float,
    formula: Text | str,
    source: str,
    *,
    unit: Text | str = NO_UNIT,
    digits: int = 3,
    confidence: str = "",
) -> Cell:
    """A figure that follows from a formula; `confidence` is that of its weakest input."""
    how = same(formula) if isinstance(formula, str) else formula
    parent = Parent(kind="computed", how=how, source=source, confidence=confidence)
    return Cell(parent=parent, value=value, unit=_unit(unit), digits=digits)


def cited(
    value: float | Text,
    source: str,
    confidence: str,
    *,
    unit: Text | str = NO_UNIT,
    digits: int = 3,
    how: Text | None = None,
    date: str = "",
) -> Cell:
    """A figure or phrase that a publication states."""
    parent = Parent(
        kind="cited", how=how or AS_PUBLISHED, source=source, confidence=confidence, date=date
    )
    if isinstance(value, Text):
        return Cell(parent=parent, text=value)
    return Cell(parent=parent, value=value, unit=_unit(unit), digits=digits)


def empty(fill: Text) -> Cell:
    """A figure that nobody has yet; `fill` says what would give it."""
    return Cell(parent=Parent(kind="empty", how=fill))


def of_quantity(
    quantity: Quantity,
    *,
    scale: float = 1.0,
    unit: Text | str = NO_UNIT,
    digits: int = 3,
    how: Text | None = None,
) -> Cell:
    """A planner figure as a cell, divided by `scale` to be printed in `unit`."""
    parent = Parent(kind=quantity.mark, how=how or same(quantity.formula), source=quantity.source)
    if quantity.value is None:
        return Cell(parent=parent)
    low, high = quantity.low, quantity.high
    return Cell(
        parent=parent,
        value=quantity.value / scale,
        unit=_unit(unit),
        digits=digits,
        low=None if low is None else low / scale,
        high=None if high is None else high / scale,
    )


def _unit(unit: Text | str) -> Text:
    return unit if isinstance(unit, Text) else same(unit)
