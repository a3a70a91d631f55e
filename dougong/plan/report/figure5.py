"""Figure 5: hardware-software integration, seen as speed on unchanged silicon."""

from __future__ import annotations

from dougong.plan.tables import Row as DataRow

from .bars import Bar, Bars
from .cells import Cell, cited, computed
from .exhibit import Exhibit, Prose, Row, Table
from .plots import Point, Scatter
from .sources import figure, rows, weakest
from .text import Text, content, phrase, same

FILE = "v4_inference_benchmarks.csv"
RATE = "tok_s_per_chip"
MIXED = "mixed 8K/1K"
DEPTH_LOOK = {
    "full stack": 0,
    "chip vendor": 1,
    "cloud + model": 2,
    "device + model": 2,
    "model lab": 2,
    "operator": 3,
}
INPUT_PER_OUTPUT = 8  # the 8K/1K scenario: eight input tokens for each output token


def exhibit() -> Exhibit:
    """The exhibit: gains at fixed silicon, the decode chart, and the units trap of throughput."""
    words = content("figure5")
    answer = Prose(
        words["answer"],
        {"pro_gain": gain(*_pair("g_pro")), "long_cost": long_context_cost()},
    )
    return Exhibit(
        key="figure5",
        label=Text("Figure 5", "圖 5"),
        title=words["title"],
        answer=answer,
        blocks=(_depth_chart(), _gains_table(), _decode_chart(), _trap_table(), _trap_reading()),
    )


def _depth_chart() -> Bars:
    """The level of integration that the data file gives each player, 1 to 5."""
    words, bars = content("figure5"), []
    for row in sorted(rows("ecosystem"), key=lambda row: row["integration_level"], reverse=True):
        depth = row["integration_level"].split(" ")[0]
        if depth.isdigit():
            name = phrase(row["player"])
            level = cited(int(depth), row["source"], row["confidence"], how=words["depth_how"])
            bars.append(Bar(name, level, DEPTH_LOOK[row["type"]]))
    return Bars(
        key="figure5_depth",
        title=words["depth_title"],
        axis=words["depth_axis"],
        bars=tuple(bars),
        categories=tuple(words[name] for name in ("d_stack", "d_chip", "d_model", "d_demand")),
    )


def bench(**wanted: str) -> DataRow:
    """The one benchmark row that matches, the keys `stage` and `precision` by their beginning."""
    loose = {key: wanted.pop(key) for key in ("stage", "precision") if key in wanted}
    found = [
        row
        for row in rows("v4_inference_benchmarks", **wanted)
        if all(row[key].startswith(start) for key, start in loose.items())
    ]
    (row,) = found
    return row


def _pair(key: str) -> tuple[DataRow, DataRow]:
    """The earlier and the later row of one comparison."""
    ascend = {"hardware": "huawei_950dt", "chips": "16"}
    flash = {"model": "DeepSeek-V4-Flash", **ascend}
    pro = {"model": "DeepSeek-V4-Pro", **ascend, "seq_len": "8192", "global_batch": "64"}
    small = {**flash, "seq_len": "8192", "global_batch": "16"}
    large = {**flash, "seq_len": "8192", "global_batch": "1536"}
    long = {**flash, "seq_len": "1048576"}
    rack = {"model": "DeepSeek-V4-Pro", "hardware": "nvidia_gb300_nvl72"}
    amd = {"model": "DeepSeek-V4-Pro", "hardware": "amd_mi355x", "precision": "FP4"}
    pairs = {
        "g_pro": (bench(**pro, stage="day-0"), bench(**pro, precision="HiF8")),
        "g_flash_small": (bench(**small, stage="day-0"), bench(**small, precision="HiF8")),
        "g_flash_large": (bench(**large, precision="MXFP8"), bench(**large, precision="HiF8")),
        "g_flash_long": (bench(**long, precision="MXFP8"), bench(**long, precision="HiF8")),
        "g_amd": (bench(**amd, stage="2026-05"), bench(**amd, stage="2026-06")),
        "g_gb300": (bench(**rack, stage="day-0"), bench(**rack, stage="June")),
    }
    return pairs[key]


def gain(before: DataRow, after: DataRow) -> Cell:
    """How much faster the later row is, in percent."""
    percent = 100 * (float(after[RATE]) / float(before[RATE]) - 1)
    return computed(
        percent,
        content("figure5")["gain_how"],
        f"{FILE}: {before['source']}; {after['source']}",
        unit="%",
        confidence=weakest((before["confidence"], after["confidence"])),
    )


def long_context_cost() -> Cell:
    """What 1M context takes from V4-Flash's decode speed at batch 16, in percent."""
    common = {"model": "DeepSeek-V4-Flash", "hardware": "huawei_950dt", "global_batch": "16"}
    short = bench(**common, seq_len="8192", precision="HiF8")
    long = bench(**common, seq_len="1048576", precision="HiF8")
    percent = 100 * (1 - float(long[RATE]) / float(short[RATE]))
    return computed(
        percent,
        content("figure5")["long_how"],
        f"{FILE}: {short['source']}",
        unit="%",
        confidence="high",
    )


def _gains_table() -> Table:
    words = content("figure5")
    keys = ("g_pro", "g_flash_small", "g_flash_large", "g_flash_long", "g_amd", "g_gb300")
    lines = []
    for key in keys:
        before, after = _pair(key)
        cells = (figure(before, RATE), figure(after, RATE), gain(before, after))
        lines.append(Row(words[key], cells))
    return Table(
        key="figure5_gains",
        title=words["gains_title"],
        columns=tuple(words[key] for key in ("change", "before", "after", "gain")),
        rows=tuple(lines),
    )


def _decode_chart() -> Scatter:
    words, points = content("figure5"), []
    for row in rows("v4_inference_benchmarks"):
        ours = row["hardware"] in ("huawei_950dt", "huawei_910c")
        if not ours or not row["tpot_ms"] or not row[RATE] or not row["phase"].startswith("decode"):
            continue
        groups = {"DeepSeek-V4-Flash": 0, "DeepSeek-V4-Pro": 1}
        label = " ".join(filter(None, (_context(row), _batch(row), row["precision"].split("-")[0])))
        points.append(
            Point(
                same(label),
                figure(row, "tpot_ms", unit="ms"),
                figure(row, RATE),
                groups.get(row["model"], 2),
            )
        )
    return Scatter(
        key="figure5_decode",
        title=words["chart_title"],
        x_title=words["chart_x"],
        y_title=words["chart_y"],
        groups=(words["flash"], words["pro"], words["older"]),
        points=tuple(points),
        log_y=True,
        height=460,
    )


def _context(row: DataRow) -> str:
    tokens = int(row["seq_len"])
    return "1M" if tokens == 1 << 20 else f"{tokens // 1024}K"


def _batch(row: DataRow) -> str:
    return f"b{row['global_batch']}" if row["global_batch"] else row["model"].split("-")[-1]


def _trap_rows() -> tuple[DataRow, DataRow]:
    rack = bench(model="DeepSeek-V4-Pro", hardware="nvidia_gb300_nvl72", stage="June")
    ascend = bench(model="DeepSeek-V4-Pro", hardware="huawei_950dt", global_batch="3072")
    return rack, ascend


def output_rate(row: DataRow) -> Cell:
    """Output tokens/s per chip of a benchmark row, whatever its source counted."""
    if row["phase"] != MIXED:
        return figure(row, RATE)
    return computed(
        float(row[RATE]) / (INPUT_PER_OUTPUT + 1),
        content("figure5")["output_how"],
        f"{FILE}: {row['source']}",
        digits=4,
        confidence=row["confidence"],
    )


def _ratio(top: float, bottom: float) -> Cell:
    return computed(top / bottom, content("figure5")["ratio_how"], FILE, unit="×")


def _trap_table() -> Table:
    words, (rack, ascend) = content("figure5"), _trap_rows()
    stated = (figure(rack, RATE), figure(ascend, RATE))
    output = (output_rate(rack), output_rate(ascend))
    ratios = tuple(_ratio(a.value or 0, b.value or 1) for a, b in (stated, output))
    lines = (
        Row(words["trap_gb300"], (stated[0], output[0])),
        Row(words["trap_950"], (stated[1], output[1])),
        Row(words["trap_ratio"], ratios),
    )
    columns = tuple(words[key] for key in ("trap_column", "stated", "output"))
    return Table(key="figure5_units_trap", title=words["trap_title"], columns=columns, rows=lines)


def _trap_reading() -> Prose:
    words, (rack, ascend) = content("figure5"), _trap_rows()
    pairs = (
        (figure(rack, RATE), figure(ascend, RATE)),
        (output_rate(rack), output_rate(ascend)),
    )
    stated, output = (_ratio(a.value or 0, b.value or 1) for a, b in pairs)
    return Prose(words["trap_reading"], {"stated": stated, "output": output})
