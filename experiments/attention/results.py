"""The experiment's table, its page of plots, and its records for the report's Table 4."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dougong.plan.records import Record, make_record
from experiments.attention.kinds import KINDS, build
from experiments.attention.measuring import COUNTS, LENGTHS, cache_bytes_per_token
from experiments.attention.stream import filler_nats

COLORS = ("#8a8a8a", "#d08c2a", "#b03a2e", "#0b6e6e", "#5aa5a5", "#6a5acd", "#a0522d")
COMMAND = "python -m experiments.attention"
CACHE_LENGTHS = tuple(1 << bits for bits in range(8, 17))
FEWEST = 20  # values that a plotted share or mean stands for at least

Measured = dict[str, dict[str, Any]]  # kind -> what was found
Line = tuple[list[float], list[float]]


def table(measured: Measured) -> str:
    """The figures as text: one line a kind."""
    head = (
        f"{'kind':<26}{'params':>9}{'recall loss':>13}{'right':>8}"
        f"{'1 of 1 at 256 .. 8k':>26}{'16 at 256 .. 8k':>26}{'B/token':>9}{'ms at 1k 8k 32k':>19}"
    )
    lines = [head]
    for name, one in measured.items():
        loss, right = recall(one)
        cells = {(c["facts"], c["length"]): 100 * c["right"] / c["asked"] for c in one["haystacks"]}
        shares = [" ".join(f"{cells[facts, n]:.0f}" for n in LENGTHS) for facts in (1, 16)]
        times = " ".join(f"{ms:.1f}" for ms in one.get("decode_ms", {}).values())
        lines.append(
            f"{KINDS[name].about:<26}{one['parameters']:>9,}{loss:>13.2f}{right:>8.1%}"
            f"{shares[0]:>26}{shares[1]:>26}{one['cache_bytes_per_token']:>9.0f}{times:>19}"
        )
    return "\n".join(lines)


def recall(one: dict[str, Any]) -> tuple[float, float]:
    """Mean loss in nats of values known from before, and the share that was the likeliest."""
    rows = [row for row in one["distance"] if row["count"]]
    count = sum(row["count"] for row in rows)
    loss = sum(row["recall"] * row["count"] for row in rows) / count
    return loss, sum(row["right"] * row["count"] for row in rows) / count


def quality_records(measured: Measured) -> list[Record]:
    """What the report reads of trained models: `attention.KIND.WHAT`."""
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
        made += [make_record(f"attention.{name}.{what}", value, unit, f"{COMMAND} --record")
                 for what, value, unit in figures]  # fmt: skip
    return made


def decode_records(measured: Measured) -> list[Record]:
    """What the report reads of decoding: `attention.KIND.decode_TOKENS` in milliseconds."""
    return [
        make_record(f"attention.{name}.decode_{n}", ms, "ms", f"{COMMAND} --time")
        for name, one in measured.items()
        for n, ms in one["decode_ms"].items()
    ]


def panels(measured: Measured) -> dict[str, dict[str, Line]]:
    """The page's plots, in order: title -> kind -> the line."""
    top = COUNTS[-1]
    makers = {
        "Loss while learning, by tokens read (nats, weighted)": lambda one: (
            [tokens for tokens, _ in one["learning"]],
            [loss for _, loss in one["learning"]],
        ),
        "Loss of values known from before, by position (nats)": lambda one: _octaves(
            one["position"], "recall"
        ),
        f"Loss of filler, by position (nats; {filler_nats():.2f} is the least)": lambda one: (
            _octaves(one["position"], "filler")
        ),
        "Values recalled, by distance to where they stood last (%)": lambda one: _octaves(
            one["distance"], "right", 100
        ),
        "One fact in a long text: right answers by length (%)": lambda one: _shares(one, 1),
        f"{top} facts in a long text: right answers by length (%)": lambda one: _shares(one, top),
        "Decode, ms a token by context (reference operators, one thread)": lambda one: (
            [int(n) for n in one.get("decode_ms", {})],
            list(one.get("decode_ms", {}).values()),
        ),
    }
    plots = {t: {name: make(one) for name, one in measured.items()} for t, make in makers.items()}
    models = {name: build(name) for name in measured}
    plots["Cache held, bytes a token by context (BF16)"] = {
        name: (list(CACHE_LENGTHS), [cache_bytes_per_token(model, n) for n in CACHE_LENGTHS])
        for name, model in models.items()
    }
    return plots


def _octaves(rows: list[dict[str, Any]], key: str, scale: float = 1) -> Line:
    rows = [row for row in rows if row[key] is not None and row["count"] >= FEWEST]
    return [row["first"] for row in rows], [scale * row[key] for row in rows]


def _shares(one: dict[str, Any], facts: int) -> Line:
    cells = [cell for cell in one["haystacks"] if cell["facts"] == facts]
    return [c["length"] for c in cells], [100 * c["right"] / c["asked"] for c in cells]


def draw(measured: Measured, path: Path) -> Path:
    """One page with every plot; ablations are dashed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, grid = pyplot.subplots(4, 2, figsize=(11, 14))
    colors = dict(zip(KINDS, COLORS, strict=True))
    for axes, (title, lines) in zip(grid.flat, panels(measured).items(), strict=True):
        for name, (xs, ys) in lines.items():
            style = "--" if KINDS[name].ablation else "-"
            axes.plot(xs, ys, style, color=colors[name], linewidth=1.2, label=KINDS[name].about)
        axes.set_title(title, fontsize=9, loc="left")
        if not title.startswith("Loss while"):
            axes.set_xscale("log", base=2)
        if title.startswith("Cache"):
            axes.set_yscale("log", base=2)
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    grid[0, 0].legend(fontsize=7, frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=100, metadata={"Software": None})
    pyplot.close(figure)
    return path
