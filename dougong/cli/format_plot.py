"""The plot of `dougong bench formats`: error against bits, every format named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from dougong.errors import InputError

_GAP = 1.09  # between two names, as a ratio of errors on the logarithmic axis
_SMALLEST = 1e-6  # where an error of 0 is drawn


def draw(rows: Sequence[Mapping[str, Any]], samples: Mapping[str, str], path: Path) -> None:
    """Writes the plot of `rows` to `path`.

    rows:    per format name, bits_per_value and relative_rms by sample.
    samples: what to call each sample; the names of the formats stand beside the first one's marks.
    Raises InputError if the file cannot be written.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 7), layout="constrained")
    for marker, (sample, title) in zip("osD", samples.items(), strict=False):
        errors = [max(row["relative_rms"][sample], _SMALLEST) for row in rows]
        axes.scatter(
            [row["bits_per_value"] for row in rows], errors, marker=marker, s=26, label=title
        )
    for name, mark, text in labels(rows, next(iter(samples))):
        line = {"arrowstyle": "-", "color": "0.6", "linewidth": 0.6, "relpos": (0, 0.5)}
        axes.annotate(name, mark, xytext=text, fontsize=7, va="center", arrowprops=line)
    axes.set_yscale("log")
    axes.set_xlim(right=max(row["bits_per_value"] for row in rows) + 2.5)
    axes.set_xlabel("bits per value, scales included")
    axes.set_ylabel("relative RMS error")
    axes.grid(alpha=0.3)
    axes.legend()
    try:
        figure.savefig(path, dpi=150)
    except OSError as problem:
        raise InputError(f"--plot {path} cannot be written: {problem.strerror}.") from None
    finally:
        pyplot.close(figure)


Point = tuple[float, float]


def labels(rows: Sequence[Mapping[str, Any]], sample: str) -> list[tuple[str, Point, Point]]:
    """Each format's name, its mark, and where the name stands so that none covers another.

    Formats of about the same size share a column of names to the right of their marks.
    """
    placed = []
    ordered = sorted(rows, key=lambda row: int(row["bits_per_value"]))
    for _, column in groupby(ordered, key=lambda row: int(row["bits_per_value"])):
        members = sorted(column, key=lambda row: float(row["relative_rms"][sample]))
        right, below = max(row["bits_per_value"] for row in members) + 0.4, 0.0
        for row in members:
            mark = (row["bits_per_value"], max(row["relative_rms"][sample], _SMALLEST))
            below = max(mark[1], below * _GAP)
            placed.append((row["name"], mark, (right, below)))
    return placed
