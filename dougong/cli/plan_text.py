"""Figures of the `plan` commands, written for people."""

from __future__ import annotations


def seconds(value: float) -> str:
    """A time in the unit that reads best."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3)):
        if value >= scale:
            shown = value / scale
            return f"{shown:,.0f} {unit}" if shown >= 100 else f"{shown:.3g} {unit}"
    return f"{value / 1e-6:.3g} us"


def rate(value: float) -> str:
    """Tokens per second: whole from 100 on, three digits below."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def gigabytes(value: float) -> str:
    """Bytes as GB (10^9)."""
    return f"{value / 1e9:,.1f} GB"


def table(rows: list[list[str]]) -> str:
    """Rows as columns: the first left-aligned, the others right-aligned."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
