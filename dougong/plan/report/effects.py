"""The computed effect of each countermeasure: one function per row of countermeasures.csv."""

from __future__ import annotations

import math
from collections.abc import Callable

from dougong.config import load_config
from dougong.plan.cost import usd_per_mtoken
from dougong.plan.kv import kv_bytes
from dougong.plan.layout import Layout, largest_batch
from dougong.plan.parameters import parameters_active, parameters_total
from dougong.plan.precision import PRECISIONS
from dougong.plan.predict import Scenario
from dougong.plan.prefix import conversation_hit_rate

from .cells import Cell, computed
from .figure5 import bench, gain
from .scenarios import SOURCE, chip, decode_at, prefill_at, rate, scenario
from .sources import only
from .table1 import USABLE_SHARE, stored_gigabytes
from .table2 import fit
from .text import content

PRO = "v4-pro"
ENGRAM_BYTES = 197e9  # V4.1-Flash's two tables, by CANN's report on it
SUPERPODS, SUPERPOD_CHIPS = 64, 8192  # Huawei Connect 2025
# kW and BF16 PFLOP/s: CloudMatrix384 paper; SemiAnalysis for the NVL72
SUPERNODE, RACK = (559.0, 289.0), (145.0, 180.0)


def _effect(key: str, value: float, unit: str = "×", source: str = SOURCE, trust: str = "") -> Cell:
    return computed(value, content("figure2")[key], source, unit=unit, confidence=trust)


def _pro_on_910c(batch: int = 4096, **changes: float) -> Scenario:
    machine = chip("huawei_910c", **changes)
    return scenario(PRO, machine, 64, 8192, batch, precision="w4a8")


def _supernodes() -> Cell:
    return _effect("cm01", rate(_pro_on_910c()) / rate(_pro_on_910c(domain=8.0)))


def _clusters() -> Cell:
    total = SUPERPODS * SUPERPOD_CHIPS * chip("huawei_950dt").need("fp8")
    return _effect(
        "cm02", total / 1e18, "EFLOP/s", "accelerators.csv; Huawei Connect 2025", "medium"
    )


def _low_precision() -> Cell:
    machine = chip("huawei_950dt")
    release, bf16 = (
        rate(scenario(PRO, machine, 64, 8192, 1024, precision=name)) for name in ("release", "bf16")
    )
    return _effect("cm03", release / bf16)


def _sparsity() -> Cell:
    config = load_config(PRO)
    return _effect(
        "cm04", parameters_total(config) / parameters_active(config), source="plan/parameters.py"
    )


def _compression() -> Cell:
    old, new = (
        largest_batch(
            load_config(model),
            Layout(chips=16),
            chip("huawei_950dt"),
            PRECISIONS[precision],
            1 << 17,
        )
        for model, precision in (("v3.2", "fp8"), (PRO, "release"))
    )
    return _effect("cm05", new / old, source="plan/layout.py; plan/kv.py")


def _kv_reuse() -> Cell:
    price = only("api_prices", model="deepseek-v4-flash")
    hit = conversation_hit_rate(10, 1000, 500, 500)
    saved = 1 - float(price["cache_hit_usd_per_m"]) / float(price["input_usd_per_m"])
    return _effect("cm06", 100 * hit * saved, "%", f"plan/prefix.py; {price['source']}", "high")


def _overlap() -> Cell:
    machine = chip("huawei_910c")
    waves, none = (
        rate(scenario(PRO, machine, 64, 8192, 4096, precision="w4a8", overlap=policy))
        for policy in ("waves", "none")
    )
    return _effect("cm07", waves / none)


def _recompute() -> Cell:
    more = fit("huawei_910c", "tensor") / fit("huawei_910c", "none")
    return _effect("cm08", more, source="plan/training.py; DeepSeek-V4 technical report")


def _speculation() -> Cell:
    machine = chip("huawei_950dt")
    one, none = (
        rate(scenario("v4-flash", machine, 16, 8192, 256, drafts=drafts)) for drafts in (1, 0)
    )
    return _effect("cm09", one / none)


def _disaggregation() -> Cell:
    slow, fast = (
        prefill_at(scenario("v4-flash", chip(name), 16, 8192, 256)).tokens_per_s_per_chip
        for name in ("huawei_950pr", "huawei_950dt")
    )
    return _effect("cm10", 100 * slow / fast, "%")


def expert_seconds(batch: int) -> float:
    """Seconds per token that V4-Pro's routed experts take on 64 x 950DT."""
    machine = chip("huawei_950dt")
    step = decode_at(scenario(PRO, machine, 64, 8192, batch, drafts=0)).step
    return sum(o.seconds for o in step.operators if o.name == "routed experts") / batch


def _pooled_experts() -> Cell:
    return _effect("cm11", expert_seconds(1024) / expert_seconds(4096))


def _tiering() -> Cell:
    requests = int(ENGRAM_BYTES // kv_bytes(load_config("v4-flash"), 1 << 17))
    return _effect("cm12", requests, "", "plan/kv.py; CANN report on DeepSeek-V4.1-Flash", "medium")


def _memory() -> Cell:
    fast, slow = (
        rate(scenario("v4-flash", machine, 16, 8192, 256))
        for machine in (chip("huawei_950dt"), chip("huawei_950dt", mem_bw=1.6e12))
    )
    return _effect("cm13", fast / slow)


def _packaging() -> Cell:
    two, one = (
        rate(scenario(PRO, chip(name), 32, 8192, 512, precision="w4a8"))
        for name in ("huawei_910c", "huawei_910b")
    )
    return _effect("cm14", two / one)


def _optics() -> Cell:
    machine = chip("huawei_910c")
    return _effect(
        "cm15",
        machine.need("link") / machine.need("scaleout"),
        source="accelerators.csv: CloudMatrix384 paper",
        trust="high",
    )


def _software() -> Cell:
    point = {
        "model": "DeepSeek-V4-Pro",
        "hardware": "huawei_950dt",
        "chips": "16",
        "seq_len": "8192",
        "global_batch": "64",
    }
    percent = gain(bench(**point, stage="day-0"), bench(**point, precision="HiF8"))
    return _effect("cm16", percent.value or 0.0, "%", percent.parent.source, "high")


def _bridging() -> Cell:
    usable = USABLE_SHARE * chip("huawei_910b").need("mem") / 1e9
    bf16, w4a8 = (math.ceil(stored_gigabytes(PRO, name) / usable) for name in ("bf16", "w4a8"))
    return _effect("cm17", bf16 / w4a8, source="Table 1; accelerators.csv")


def _mixed_fleet() -> Cell:
    def cost(name: str, phase: str) -> float:
        machine = chip(name)
        one = scenario("v4-flash", machine, 16, 8192, 1024)
        speed = prefill_at(one) if phase == "prefill" else decode_at(one)
        return usd_per_mtoken(speed.tokens_per_s_per_chip, machine.need("rental"))

    decoding = cost("nvidia_h20", "decode")
    mixed = 8 * cost("huawei_910c", "prefill") + decoding
    alone = 8 * cost("nvidia_h20", "prefill") + decoding
    return _effect("cm19", mixed / alone, trust="low")


def _energy() -> Cell:
    (ours, ours_flops), (theirs, theirs_flops) = SUPERNODE, RACK
    worse = ours / ours_flops / (theirs / theirs_flops)
    return _effect("cm20", worse, source="CloudMatrix384 paper; SemiAnalysis", trust="medium")


def _pricing() -> Cell:
    listed = only("api_prices", model="deepseek-v4-pro (list at launch)")
    force = only("api_prices", model="deepseek-v4-pro")
    change = 100 * (float(force["output_usd_per_m"]) / float(listed["output_usd_per_m"]) - 1)
    return _effect("cm22", change, "%", f"api_prices.csv: {force['source']}", "high")


EFFECTS: dict[str, Callable[[], Cell]] = {
    "cm01": _supernodes,
    "cm02": _clusters,
    "cm03": _low_precision,
    "cm04": _sparsity,
    "cm05": _compression,
    "cm06": _kv_reuse,
    "cm07": _overlap,
    "cm08": _recompute,
    "cm09": _speculation,
    "cm10": _disaggregation,
    "cm11": _pooled_experts,
    "cm12": _tiering,
    "cm13": _memory,
    "cm14": _packaging,
    "cm15": _optics,
    "cm16": _software,
    "cm17": _bridging,
    "cm19": _mixed_fleet,
    "cm20": _energy,
    "cm22": _pricing,
}
