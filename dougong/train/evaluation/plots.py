"""The evaluation on one page: bits per character, loss by position, needles, right answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dougong.train.evaluation.table import by_length

INK, ACCENT, QUIET, PALE = "#222222", "#0b6e6e", "#b0a48f", "#e6e0d4"
KEY_COLORS = {1: "#0b6e6e", 2: "#4f9d69", 4: "#d08c2a", 8: "#b03a2e"}


def draw_page(results: dict[str, Any], path: Path) -> Path:
    """Draws what the evaluation holds (PNG); suites that were left out leave their panel empty."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    suites = results["suites"]
    families = {name: one["kinds"] for name, one in suites.items() if "kinds" in one}
    count = sum(map(len, families.values()))
    figure = pyplot.figure(figsize=(11, max(8, 2 + 0.19 * count)))
    grid = figure.add_gridspec(3, 2, width_ratios=(1, 1))
    panels = {
        "text": (_text, "Held-out text, bits per character (less is better)"),
        "position": (_position, "Loss by position in a held-out novel, nats per token"),
        "needle": (_needle, "Needles found, % (of several: the one asked for)"),
    }
    for row, (name, (draw, title)) in enumerate(panels.items()):
        axes = figure.add_subplot(grid[row, 0])
        axes.set_title(title, fontsize=9, loc="left", color=INK)
        if name in suites:
            draw(axes, suites[name])
        else:
            axes.text(0.5, 0.5, "not measured", ha="center", transform=axes.transAxes)
    axes = figure.add_subplot(grid[:, 1])
    axes.set_title("Right answers, % (bars: 95 % interval)", fontsize=9, loc="left", color=INK)
    _shares(axes, families)
    for axes in figure.axes:
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)
    return path


def _text(axes: Any, figures: dict[str, Any]) -> None:
    columns = (("bits_per_character", "model", ACCENT), ("xz", "xz", QUIET),
               ("trigram", "3-gram", PALE))  # fmt: skip
    names = [domain["name"] for domain in figures["domains"]]
    for i, (key, label, color) in enumerate(columns):
        lengths = [domain[key] for domain in figures["domains"]]
        places = [y + (i - 1) * 0.27 for y in range(len(names))]
        bars = axes.barh(places, lengths, 0.25, color=color, label=label)
        if key == "bits_per_character":
            axes.bar_label(bars, fmt="%.2f", fontsize=5, label_type="center", color="white")
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.legend(fontsize=7, frameon=False, loc="upper right")


def _position(axes: Any, figures: dict[str, Any]) -> None:
    buckets = figures["buckets"]
    middle = [(bucket["first"] + bucket["last"] + 2) / 2 for bucket in buckets]
    axes.errorbar(
        middle,
        [bucket["nats"] for bucket in buckets],
        [bucket["standard_error"] for bucket in buckets],
        color=ACCENT, marker="o", markersize=3, linewidth=1,
    )  # fmt: skip
    axes.axvline(128, color=QUIET, linewidth=0.8, linestyle=":")
    axes.annotate("window", (128, axes.get_ylim()[1]), fontsize=6, color=INK, va="top")
    axes.set_xscale("log", base=2)
    axes.set_xlabel("position, tokens", fontsize=7)


def _needle(axes: Any, figures: dict[str, Any]) -> None:
    for filler, keys in dict.fromkeys((cell["filler"], cell["keys"]) for cell in figures["cells"]):
        lengths = by_length(figures["cells"], filler, keys)
        shares = [100 * right / asked for right, asked in lengths.values()]
        axes.plot(
            list(lengths), shares, "o-" if filler == "stories" else "o:",
            color=KEY_COLORS[keys], markersize=3, linewidth=1, label=f"{keys} in {filler}",
        )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_ylim(-3, 103)
    axes.set_xlabel("prompt, tokens", fontsize=7)
    axes.legend(fontsize=6, frameon=False, ncols=2)


def _shares(axes: Any, families: dict[str, list[dict[str, Any]]]) -> None:
    labels, y = [], 0.0
    places = []
    for i, (family, kinds) in enumerate(families.items()):
        for kind in kinds:
            share, low, high = (100 * kind[key] for key in ("share", "low", "high"))
            axes.barh(y, share, 0.8, color=(ACCENT, QUIET)[i % 2])
            axes.plot((low, high), (y, y), color=INK, linewidth=0.7)
            thinking = ", thinking" if kind["thinking"] and "think" not in kind["kind"] else ""
            labels.append(f"{family}: {kind['kind']}{thinking}")
            places.append(y)
            y += 1
        y += 0.5
    axes.set_yticks(places, labels)
    axes.set_ylim(y, -1)
    axes.set_xlim(0, 100)
