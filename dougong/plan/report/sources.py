"""From rows of the planner's data files to cells: cited figures and phrases, gaps kept as gaps."""

from __future__ import annotations

import re
from collections.abc import Iterable

from dougong.plan.tables import Row, load_table

from .cells import Cell, cited, empty
from .text import Text, content, phrase

# From the least to the most trusted; "high (spec) / low (price)" counts as its lowest word.
TRUST = ("none", "low", "low-medium", "medium", "medium-high", "high")


def rows(table: str, **wanted: str) -> list[Row]:
    """The rows of a data file whose columns equal `wanted`."""
    return [
        row for row in load_table(table) if all(row[key] == value for key, value in wanted.items())
    ]


def only(table: str, **wanted: str) -> Row:
    """The one row that `rows` finds; a data file that holds none or two is a fault of ours."""
    (row,) = rows(table, **wanted)
    return row


def figure(row: Row, column: str, *, unit: Text | str = "") -> Cell:
    """A number that the row states, with the digits it states, or an empty cell."""
    stated = row[column]
    if not stated:
        return gap("not_published")
    value = int(stated) if stated.isdigit() else float(stated)
    digits = len(stated.replace(".", "").lstrip("-0")) or 1
    return cited(value, row["source"], row["confidence"], unit=unit, digits=digits)


def words(row: Row, column: str, missing: str = "not_published") -> Cell:
    """A phrase that the row states, in both languages, or the gap `missing`."""
    if not row[column]:
        return gap(missing)
    return cited(phrase(row[column]), row["source"], row["confidence"])


def gap(key: str) -> Cell:
    """An empty cell whose filling is named by content/gaps.toml."""
    return empty(content("gaps")[key])


def weakest(confidences: Iterable[str]) -> str:
    """The lowest confidence among the inputs of a computed figure."""
    lowest = len(TRUST) - 1
    for confidence in confidences:
        for word in re.findall(r"[a-z]+(?:-[a-z]+)?", confidence):
            if word in TRUST:
                lowest = min(lowest, TRUST.index(word))
    return TRUST[lowest]
