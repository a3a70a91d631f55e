"""A figure with its parent: value, unit, how it was obtained, and where that comes from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from dougong.errors import InputError

Mark = Literal["computed", "measured", "cited", "empty"]

# Every unit that the planner prints. A test holds all its quantities to this list.
UNITS = frozenset(
    {
        "1",
        "parameters",
        "B",
        "B/token",
        "FLOP",
        "FLOP/token",
        "FLOP/B",
        "FLOP/s",
        "B/s",
        "s",
        "token",
        "token/s",
        "token/s/chip",
        "token/s/user",
        "request/s",
        "W",
        "J/token",
        "USD/h",
        "USD/Mtoken",
        "chip",
        "expert",
        "layer",
        "date",
    }
)


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """One figure of a report, in base units (B, FLOP, s), with the mark it must carry.

    `value` is None exactly when `mark` is "empty"; `formula` then says what would fill it.
    `low` and `high` bound the value where the planner knows its own error (90 % interval).
    """

    value: float | None
    unit: str
    formula: str
    source: str
    mark: Mark = "computed"
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise InputError(f"unit {self.unit!r} is unknown; use one of {sorted(UNITS)}")
        if (self.value is None) != (self.mark == "empty"):
            raise InputError(f"a quantity marked {self.mark!r} has value {self.value!r}")
        if self.value is not None and math.isnan(self.value):
            raise InputError(f"{self.formula}: the value is not a number")

    def as_dict(self) -> dict[str, float | str | None]:
        """The keys that `--json` prints."""
        return {
            "value": self.value,
            "unit": self.unit,
            "low": self.low,
            "high": self.high,
            "mark": self.mark,
            "formula": self.formula,
            "source": self.source,
        }


def empty(unit: str, fill: str, source: str = "not published") -> Quantity:
    """A figure nobody has: `fill` says what would give it."""
    return Quantity(value=None, unit=unit, formula=fill, source=source, mark="empty")
