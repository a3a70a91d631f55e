"""The experiment's table, its page of plots, and its records for the report's Table 4."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dougong.plan.records import Record, append_records, make_record
from experiments.attention.kinds import KINDS
from experiments.attention.measuring import FACTS, LENGTHS
from experiments.attention.stream import filler_nats

COLORS = ("#8a8a8a", "#d08c2a", "#b03a2e", "#0b6e6e", "#5aa5a5", "#6a5acd", "#a0522d")
COMMAND = "python -m experiments.attention --record"

Measured = dict[str, dict[str, Any]]  # kind -> what `measure` and `time_decoding` found


def table(measured: Measured) -> str:
    """The figures as text: one line a kind."""
    head = (
        f"{'kind':<24}{'params':>9}{'recall loss':>13}{'right':>8}"
        f"{'1 of 1 at 256 .. 8k':>28}{'16 at 256 .. 8k':>28}{'B/token':>9}{'ms at 1k 8k 32k':>22}"
    )
    lines = [head]
    for name, one in measured.items():
        loss, right = recall(one)
        cells = {(c["facts"], c["length"]): 100 * c["right"] / c["asked"] for c in one["haystacks"]}
        shares = [" ".join(f"{cells[facts, n]:.0f}" for n in LENGTHS) for facts in (1, 16)]
        times = " ".join(f"{ms:.1f}" for ms in one.get("decode_ms", {}).values())
        lines.append(
            f"{KINDS[name].about:<24}{one['parameters']:>9,}{loss:>13.2f}{right:>8.0%}"
            f"{shares[0]:>28}{shares[1]:>28}{one['cache_bytes_per_token']:>9.0f}{times:>22}"
        )
    return "\n".join(lines)


def recall(one: dict[str, Any]) -> tuple[float, float]:
    """Mean loss in nats of values known from before, and the share that was the likeliest."""
    rows = [row for row in one["distance"] if row["count"]]
    count = sum(row["count"] for row in rows)
    loss = sum(row["recall"] * row["count"] for row in rows) / count
    return loss, sum(row["right"] * row["count"] for row in rows) / count


def records(measured: Measured, command: str = COMMAND) -> list[Record]:
    """What the report reads: `attention.KIND.WHAT`."""
    made = []
    for name, one in measured.items():
        loss, right = recall(one)
        figures = [
            ("parameters", one["parameters"], "count"),
            ("tokens", one["tokens"], "token"),
            ("loss", loss, "nats"),
            ("recall", 100 * right, "%"),
            ("cache", one["cache_bytes_per_token"], "B/token"),
        ]
        for cell in one["haystacks"]:
            share = 100 * cell["right"] / cell["asked"]
            figures.append((f"needle_{cell['facts']}_{cell['length']}", share, "%"))
        figures += [(f"decode_{n}", ms, "ms") for n, ms in one.get("decode_ms", {}).items()]
        made += [make_record(f"attention.{name}.{what}", value, unit, command)
                 for what, value, unit in figures]  # fmt: skip
    return made


def keep(measured: Measured) -> list[Path]:
    """Appends the records to bench/results; returns the files."""
    return append_records(records(measured), "attention")


def draw(measured: Measured, path: Path) -> Path:
    """One page: losses by position, recall by distance, haystacks, cache and decode time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, grid = pyplot.subplots(3, 2, figsize=(11, 12))
    looks = {name: (COLORS[i], "--" if KINDS[name].ablation else "-")
             for i, name in enumerate(KINDS)}  # fmt: skip
    for name, one in measured.items():
        color, style = looks[name]
        look = {"color": color, "linestyle": style, "linewidth": 1.2, "label": KINDS[name].about}
        for axes, rows, key, scale in (
            (grid[0, 0], one["position"], "recall", 1),
            (grid[0, 1], one["position"], "filler", 1),
            (grid[1, 0], one["distance"], "right", 100),
        ):
            rows = [row for row in rows if row[key] is not None and row["count"] >= 20]
            axes.plot([row["first"] for row in rows], [scale * row[key] for row in rows], **look)
        for axes, facts in ((grid[1, 1], FACTS[0]), (grid[2, 0], FACTS[-1])):
            cells = [cell for cell in one["haystacks"] if cell["facts"] == facts]
            shares = [100 * cell["right"] / cell["asked"] for cell in cells]
            axes.plot([cell["length"] for cell in cells], shares, marker="o", markersize=3, **look)
        times = one.get("decode_ms", {})
        grid[2, 1].plot([int(n) for n in times], list(times.values()), marker="o", **look)
    titles = (
        "Loss of values known from before, by position (nats)",
        f"Loss of filler, by position (nats; {filler_nats():.2f} is the least)",
        "Values recalled, by distance to where they stood last (%)",
        "One fact in a long text: right answers by length (%)",
        f"{FACTS[-1]} facts in a long text: right answers by length (%)",
        "Decode, ms a token by context (reference operators, one thread)",
    )
    for axes, title in zip(grid.flat, titles, strict=True):
        axes.set_title(title, fontsize=9, loc="left")
        axes.set_xscale("log", base=2)
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    grid[0, 0].legend(fontsize=7, frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)
    return path
