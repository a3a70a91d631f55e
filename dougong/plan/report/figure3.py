"""Figure 3: the key upgrades from V3.2 to V4-Pro, each alone, each last, and all together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

from dougong.config import V4Config, load_config
from dougong.plan.chips import load_chips
from dougong.plan.overlap import OverlapPolicy
from dougong.plan.prefix import window_to_compressed
from dougong.plan.upgrades import (
    PARTS,
    Hybrid,
    cache_bytes,
    decode_flops,
    throughput_bound,
    weight_bytes,
)

from .bars import Pair, Pairs
from .cells import Cell, cited, computed
from .exhibit import Exhibit, Prose, Row, Table
from .measured import Results
from .sources import gap, only
from .text import Text, content

MILLION = 1 << 20
CHIP, CHIPS = "huawei_950dt", 16
OLD, NEW = Hybrid(), Hybrid.all()
SOURCE = "plan/upgrades.py; config.json of V3.2 and V4-Pro"
REPORT = "DeepSeek-V4 technical report (arXiv 2606.19348)"
KEYS = (*PARTS, "waves")


def exhibit(results: Results) -> Exhibit:
    """The exhibit: chart and table of exchangeable parts, and what is not arithmetic."""
    words = content("figure3")
    cells = {
        "flops": _percent(decode_value, OLD, NEW, "flops_how"),
        "cache": _percent(cache_value, OLD, NEW, "cache_how"),
        "compression": _percent(cache_value, OLD, replace(OLD, compression=True), "cache_how"),
    }
    return Exhibit(
        key="figure3",
        label=Text("Figure 3", "圖 3"),
        title=words["title"],
        answer=Prose(words["answer"], cells),
        blocks=(
            _chart(),
            _reading(),
            _table(),
            _other_table(results),
        ),
    )


def _reading() -> Prose:
    pro = load_config("v4-pro")
    shared = {
        "layers": pro.num_hidden_layers,
        "hidden": pro.hidden_size,
        "heads": pro.num_attention_heads,
    }
    cells = {
        name: cited(value, "config.json of V3.2 and V4-Pro", "high")
        for name, value in shared.items()
    }
    return Prose(content("figure3")["reading"], cells)


def decode_value(hybrid: Hybrid) -> float:
    """FLOPs of a decoded token at 1M."""
    return decode_flops(hybrid, MILLION)


def cache_value(hybrid: Hybrid) -> float:
    """Cache of a request at 1M."""
    return float(cache_bytes(hybrid, MILLION))


@cache
def speed(hybrid: Hybrid, overlap: OverlapPolicy) -> float:
    """Throughput bound of the hybrid on the exhibit's machine."""
    return throughput_bound(hybrid, load_chips()[CHIP], CHIPS, MILLION, overlap)


def _percent(value: Callable[[Hybrid], float], old: Hybrid, new: Hybrid, how: str) -> Cell:
    return computed(100 * value(new) / value(old), content("figure3")[how], SOURCE, unit="%")


def _factor(after: float, before: float, how: str) -> Cell:
    return computed(after / before, content("figure3")[how], SOURCE, unit="×")


def without(part: str) -> Hybrid:
    """V4-Pro with one part as in V3.2."""
    return NEW if part == "waves" else replace(NEW, **{part: False})


def only_with(part: str) -> Hybrid:
    """V3.2 with one part as in V4-Pro."""
    return OLD if part == "waves" else replace(OLD, **{part: True})


def speed_alone(part: str) -> Cell:
    """Throughput with only this upgrade over V3.2's, unoverlapped."""
    policy: OverlapPolicy = "waves" if part == "waves" else "none"
    return _factor(speed(only_with(part), policy), speed(OLD, "none"), "speed_how")


def speed_last(part: str) -> Cell:
    """Throughput of V4-Pro with waves over the same without this upgrade."""
    policy: OverlapPolicy = "none" if part == "waves" else "waves"
    return _factor(speed(NEW, "waves"), speed(without(part), policy), "speed_how")


def speed_together() -> Cell:
    """Throughput of V4-Pro with waves over V3.2's without."""
    return _factor(speed(NEW, "waves"), speed(OLD, "none"), "speed_how")


def _chart() -> Pairs:
    words = content("figure3")
    pairs = tuple(Pair(words[part], speed_alone(part), speed_last(part)) for part in KEYS)
    return Pairs(
        key="figure3_throughput",
        title=words["chart_title"],
        axis=words["chart_axis"],
        names=(words["alone"], words["last"]),
        pairs=pairs,
        log=True,
    )


def _table() -> Table:
    words, lines = content("figure3"), []
    for part in KEYS:
        first, last = only_with(part), without(part)
        cells: list[Cell] = []
        for value, how in (
            (decode_value, "flops_how"),
            (cache_value, "cache_how"),
            (weight_bytes, "weights_how"),
        ):
            cells += [_factor(value(first), value(OLD), how), _factor(value(NEW), value(last), how)]
        lines.append(Row(words[part], (*cells, speed_alone(part), speed_last(part))))
    both = [
        _factor(value(NEW), value(OLD), how)
        for value, how in (
            (decode_value, "flops_how"),
            (cache_value, "cache_how"),
            (weight_bytes, "weights_how"),
        )
        for _ in range(2)
    ]
    lines.append(Row(words["together"], (*both, speed_together(), speed_together())))
    heads = (
        "upgrade",
        "flops_alone",
        "flops_last",
        "cache_alone",
        "cache_last",
        "weights_alone",
        "weights_last",
        "speed_alone",
        "speed_last",
    )
    return Table(
        key="figure3_upgrades",
        title=words["table_title"],
        columns=tuple(words[head] for head in heads),
        rows=tuple(lines),
    )


def _other_table(results: Results) -> Table:
    words = content("figure3")
    flash = only("api_prices", model="deepseek-v4-flash")
    hit = float(flash["cache_hit_usd_per_m"]) / float(flash["input_usd_per_m"])
    pro = load_config("v4-pro")
    assert isinstance(pro, V4Config)
    effects: dict[str, Cell] = {
        "muon": gap("muon"),
        "drafts": cited(words["drafts_effect"], "DSpark paper (DeepSpec)", "high"),
        "megamoe": cited(words["megamoe_effect"], "DeepGEMM PR 316; " + REPORT, "high"),
        "index_bf16": cited(words["index_effect"], REPORT, "high"),
        "mhc": cited(words["mhc_effect"], REPORT, "high"),
        "anticipatory": cited(words["anticipatory_effect"], REPORT, "high"),
        "invariance": cited(words["invariance_effect"], f"{REPORT}; Miles", "medium"),
        "disk": computed(hit, words["disk_how"], f"api_prices.csv: {flash['source']}", unit="×"),
        "windows": computed(
            window_to_compressed(pro),
            words["windows_how"],
            "plan/prefix.py; DeepSeek-V4 technical report",
            unit="×",
        ),
    }
    lines = tuple(
        Row(words[name], (cell, results.first(f"upgrade.{name}.", "upgrade_measured")))
        for name, cell in effects.items()
    )
    return Table(
        key="figure3_other",
        title=words["other_title"],
        columns=(words["upgrade"], words["effect"], words["ours"]),
        rows=lines,
    )
