"""Table 2: checkpointing against compute-while-transmitting, when each pays on six chips."""

from __future__ import annotations

import math
from functools import cache

from dougong.config import load_config
from dougong.plan.chips import Chip, load_chips
from dougong.plan.crossovers import (
    hiding_share,
    link_to_hide,
    offload_s_per_byte,
    recompute_flops_per_byte,
    recompute_s_per_byte,
    tokens_that_fit,
    waves_to_win,
)
from dougong.plan.overlap import OverlapPolicy, hiding_threshold, moe_time, speedup
from dougong.plan.training import (
    RECOMPUTE_POLICIES,
    TRAINING_EFFICIENCY,
    RecomputePolicy,
    TrainingStep,
    hiding_margin,
    training_step,
)

from .bars import Bar, Bars
from .cells import Cell, cited, computed
from .exhibit import Exhibit, Prose, Row, Table
from .measured import Results
from .plots import Line, Lines, Rule
from .sources import figure, gap, only, rows
from .sources import words as stated
from .table1 import SHORT_NAMES
from .text import Text, content, joined, phrase, same

CHIPS = (
    "nvidia_h20",
    "huawei_950dt",
    "huawei_910c",
    "nvidia_h200_sxm",
    "nvidia_b200_sxm",
    "nvidia_h800_sxm",
)
HOST_LINKS = {
    "nvidia_h20": "pcie5x16",
    "nvidia_h800_sxm": "pcie5x16",
    "nvidia_h200_sxm": "pcie5x16",
    "nvidia_b200_sxm": "pcie5x16",
    "huawei_910c": "pcie4x16",
}
PRO, FLASH = load_config("v4-pro"), load_config("v4-flash")
TRAIN_CHIPS, TRAIN_TOKENS = 512, 4096
OVERLAP = "plan/overlap.py; DeepSeek-V4 technical report"
TRAINING = "plan/training.py; DeepSeek-V4 technical report; mHC paper, arXiv 2512.24880"


def exhibit(results: Results) -> Exhibit:
    """The exhibit: the ratio, the policies, each chip's crossovers, and the two mechanisms."""
    words = content("table2")
    h800, h20 = ratio("nvidia_h800_sxm"), "nvidia_h20"
    hiding = sum(ratio(chip) <= hiding_threshold(PRO.moe_intermediate_size) for chip in CHIPS)
    best = max(speedup(x_of(chip), "waves", 16) for chip in CHIPS)
    cells = {
        "hide": computed(hiding, words["hide_how"], OVERLAP),
        "chips": computed(len(CHIPS), words["count_how"], OVERLAP),
        "best": computed(best, words["best_how"], OVERLAP, unit="×"),
        "h800": computed(
            100 * hiding_share(h800, PRO.moe_intermediate_size),
            words["share_how"],
            OVERLAP,
            unit="%",
        ),
        "tensor": cost(step(h20, "tensor", "none"), step(h20, "none", "none")),
        "module": cost(step(h20, "module", "none"), step(h20, "none", "none")),
    }
    return Exhibit(
        key="table2",
        label=Text("Table 2", "表 2"),
        title=words["title"],
        answer=Prose(words["answer"], cells),
        blocks=(
            _ratio_chart(),
            _time_chart(),
            _overlap_table(),
            _training_table(),
            _measured_table(results),
            Prose(words["reading"]),
            _exchange_table(),
            _dimensions_table(),
            _conflicts_table(),
        ),
    )


def chip_of(name: str) -> Chip:
    """A chip by its id."""
    return load_chips()[name]


def ratio(name: str) -> float:
    """C/B of a chip at peak, FLOP per byte."""
    return hiding_margin(PRO, chip_of(name)).peak_ratio


def x_of(name: str, d: int = PRO.moe_intermediate_size) -> float:
    """Communication over compute of the MoE layer at peak."""
    return ratio(name) / hiding_threshold(d)


@cache
def step(name: str, recompute: RecomputePolicy, overlap: OverlapPolicy) -> TrainingStep:
    """V4-Pro's training step on the exhibit's machine under one pair of policies."""
    chip = chip_of(name)
    return training_step(PRO, chip, TRAIN_CHIPS, TRAIN_TOKENS, recompute=recompute, overlap=overlap)


def change(after: TrainingStep, before: TrainingStep) -> Cell:
    """Change of throughput in percent."""
    percent = 100 * (after.tokens_per_s / before.tokens_per_s - 1)
    return computed(percent, content("table2")["change_how"], TRAINING, unit="%")


def cost(after: TrainingStep, before: TrainingStep) -> Cell:
    """Throughput lost in percent."""
    percent = 100 * (1 - after.tokens_per_s / before.tokens_per_s)
    return computed(percent, content("table2")["cost_how"], TRAINING, unit="%")


def _label(name: str) -> Text:
    return same(SHORT_NAMES[name])


def _input(name: str) -> str:
    chip = chip_of(name)
    return f"accelerators.csv: {chip.name}"


def _ratio_chart() -> Bars:
    words, bars = content("table2"), []
    limits = [hiding_threshold(config.moe_intermediate_size) for config in (FLASH, PRO)]
    for name in sorted(CHIPS, key=ratio):
        value = ratio(name)
        cell = computed(
            value, words["cb_how"], _input(name), unit="FLOP/B", confidence=chip_of(name).confidence
        )
        bars.append(Bar(_label(name), cell, sum(value > limit for limit in limits)))
    rules = tuple(
        (computed(limit, words["limit_how"], OVERLAP, digits=4), words[name])
        for limit, name in zip(limits, ("limit_flash", "limit_pro"), strict=True)
    )
    return Bars(
        key="table2_ratio",
        title=words["ratio_chart"],
        axis=words["ratio_axis"],
        bars=tuple(bars),
        categories=(words["both"], words["pro_only"], words["neither"]),
        rules=rules,
        log=True,
    )


def _time_chart() -> Lines:
    words = content("table2")
    policies: tuple[tuple[str, OverlapPolicy, int], ...] = (
        ("none", "none", 1),
        ("two_stage", "two_stage", 1),
        ("waves_4", "waves", 4),
        ("waves_16", "waves", 16),
    )
    grid = [k / 20 for k in range(0, 41)]
    lines = [
        Line(
            words[key],
            tuple(
                (x, computed(moe_time(x, policy, waves), words["time_how"], OVERLAP)) for x in grid
            ),
            look,
        )
        for look, (key, policy, waves) in enumerate(policies)
    ]
    rules = tuple(
        Rule(computed(x_of(name), words["x_how"], _input(name)), _label(name)) for name in CHIPS
    )
    return Lines(
        key="table2_time",
        title=words["time_chart"],
        x_title=words["time_x"],
        y_title=words["time_y"],
        lines=tuple(lines),
        rules=rules,
        log_x=False,
        log_y=False,
        marks=False,
    )


def _overlap_row(name: str) -> Row:
    words, value, x = content("table2"), ratio(name), x_of(name)
    d, source, trust = PRO.moe_intermediate_size, _input(name), chip_of(name).confidence
    peak = value * chip_of(name).need("link")
    waves = waves_to_win(x)
    win = computed(math.ceil(waves) if math.isfinite(waves) else 0, words["win_how"], OVERLAP)
    if math.isinf(waves):
        win = Cell(parent=win.parent, text=words["never"])
    return Row(
        _label(name),
        (
            computed(value, words["cb_how"], source, confidence=trust),
            computed(x_of(name, FLASH.moe_intermediate_size), words["x_how"], OVERLAP),
            computed(x, words["x_how"], OVERLAP),
            computed(speedup(x, "two_stage"), words["speed_how"], OVERLAP, unit="×"),
            computed(speedup(x, "waves", 8), words["speed_how"], OVERLAP, unit="×"),
            computed(speedup(x, "waves", 16), words["speed_how"], OVERLAP, unit="×"),
            win,
            computed(100 * hiding_share(value, d), words["share_how"], OVERLAP, unit="%"),
            computed(link_to_hide(peak, d) / 1e9, words["link_how"], source, unit="GB/s"),
        ),
    )


def _overlap_table() -> Table:
    words = content("table2")
    heads = ("chip", "cb", "x_flash", "x_pro", "s_two", "s_8", "s_16", "win", "share", "link")
    return Table(
        key="table2_overlap",
        title=words["chips_title"],
        columns=tuple(words[head] for head in heads),
        rows=tuple(_overlap_row(name) for name in CHIPS),
    )


def fit(name: str, recompute: RecomputePolicy) -> int:
    """Tokens whose activations fit on one chip under a policy."""
    one = step(name, recompute, "none")
    return tokens_that_fit(chip_of(name), one.state_bytes, one.activation_bytes / one.tokens)


def _needed(name: str) -> Cell:
    words = content("table2")
    least = next((p for p in RECOMPUTE_POLICIES if fit(name, p) >= TRAIN_TOKENS), "more")
    known = computed(0, words["needs_how"], TRAINING)
    return Cell(parent=known.parent, text=words[f"n_{least}"])


def _training_row(name: str) -> Row:
    words = content("table2")
    base, tensor = step(name, "none", "none"), step(name, "tensor", "none")
    both = step(name, "tensor", "waves")
    fits = tuple(computed(fit(name, p), words["fit_how"], TRAINING) for p in RECOMPUTE_POLICIES)
    return Row(
        _label(name),
        (
            *fits,
            _needed(name),
            computed(base.tokens_per_s, words["train_how"], TRAINING),
            cost(tensor, base),
            cost(step(name, "module", "none"), base),
            change(step(name, "none", "waves"), base),
            change(both, base),
        ),
    )


def _training_table() -> Table:
    words = content("table2")
    heads = (
        "chip",
        "fit_none",
        "fit_tensor",
        "fit_module",
        "needs",
        "base",
        "t_cost",
        "m_cost",
        "o_gain",
        "together",
    )
    return Table(
        key="table2_training",
        title=words["training_title"],
        columns=tuple(words[head] for head in heads),
        rows=tuple(_training_row(name) for name in CHIPS),
    )


def _measured_table(results: Results) -> Table:
    words, missing = content("table2"), "recompute_measured"
    lines = [
        Row(
            words[f"n_{policy}"],
            (
                results.cell(f"recompute.{policy}.m97.step", missing),
                results.cell(f"recompute.{policy}.m97.step_bytes", missing, scale=1e6, unit="MB"),
                results.cell(f"recompute.{policy}.m97.peak_bytes", missing, scale=1e6, unit="MB"),
            ),
        )
        for policy in RECOMPUTE_POLICIES
    ]
    heads = ("policy", "m_step", "m_tensors", "m_process")
    return Table(
        key="table2_measured",
        title=words["measured_title"],
        columns=tuple(words[head] for head in heads),
        rows=tuple(lines),
    )


def _exchange_row(name: str) -> Row:
    words, chip = content("table2"), chip_of(name)
    peak = ratio(name) * chip.need("link")
    again = computed(
        1e9 * recompute_s_per_byte(PRO, peak) * 1e3, words["recompute_how"], TRAINING, unit="ms/GB"
    )
    if name not in HOST_LINKS:
        return Row(_label(name), (again, gap("host_link"), gap("host_link"), gap("host_link")))
    link = only("interconnects", id=HOST_LINKS[name])
    speed = float(link["per_device_oneway_gbs"]) * 1e9
    source = f"interconnects.csv: {link['name']}"
    even = recompute_flops_per_byte(PRO) * speed / 2 / TRAINING_EFFICIENCY
    return Row(
        _label(name),
        (
            again,
            computed(1e12 * offload_s_per_byte(speed), words["offload_how"], source, unit="ms/GB"),
            computed(speed / 1e9, words["host"], source, unit="GB/s", confidence="high"),
            computed(even / 1e12, words["cross_how"], source),
        ),
    )


def _exchange_table() -> Table:
    words = content("table2")
    heads = ("chip", "recompute", "offload", "host", "cross")
    return Table(
        key="table2_exchange",
        title=words["exchange_title"],
        columns=tuple(words[head] for head in heads),
        rows=tuple(_exchange_row(name) for name in CHIPS),
    )


def _dimensions_table() -> Table:
    words, lines = content("table2"), []
    for row in rows("checkpointing_vs_overlap"):
        label = phrase(row["dimension"])
        cells = (stated(row, "checkpointing"), stated(row, "compute_while_transmitting"))
        lines.append(Row(label, cells))
    heads = ("dimension", "checkpointing", "transmitting")
    return Table(
        key="table2_mechanisms",
        title=words["dimensions_title"],
        columns=tuple(words[head] for head in heads),
        rows=tuple(lines),
    )


def _conflicts_table() -> Table:
    words, lines = content("table2"), []
    for row in rows("conflicts"):
        if row["accelerator_id"] not in CHIPS:
            continue
        label = joined(_label(row["accelerator_id"]), words[row["field"]], by=", ")
        other = cited(phrase(row["other_source"]), row["other_source"], "low")
        theirs = figure(row | {"source": row["other_source"], "confidence": "low"}, "other_value")
        cells = (figure(row, "value"), theirs, other, stated(row, "notes"))
        lines.append(Row(label, cells))
    heads = ("conflict", "used", "other", "other_source", "why")
    return Table(
        key="table2_conflicts",
        title=words["conflicts_title"],
        columns=tuple(words[head] for head in heads),
        rows=tuple(lines),
    )
