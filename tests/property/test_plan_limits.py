"""Limits, units and monotonicity of the planner, drawn by hypothesis."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dougong.config import load_config
from dougong.plan.calibration import default_calibration
from dougong.plan.chips import Chip, load_chips, set_value
from dougong.plan.layout import Layout, memory_need
from dougong.plan.operators import Step, main_work
from dougong.plan.overlap import moe_time
from dougong.plan.precision import PRECISIONS, compute_rate, find_precision
from dougong.plan.predict import Scenario, central_tpot, decode, prefill
from dougong.plan.roofline import Factors, ideal_step
from dougong.plan.weights import main_weights

CONFIGS = {name: load_config(name) for name in ("v4-flash", "v4-pro", "v3", "v3.2")}
CHIPS = load_chips()
COMPLETE = [chip for chip in CHIPS.values() if not chip.missing() and chip.get("bf16")]
FACTORS = Factors(
    memory_efficiency=0.65, compute_efficiency=0.4, call_s=4e-6, select_per_s=4e9, draft_s=1e-3
)


@st.composite
def scenarios(draw: Any) -> Scenario:
    config = CONFIGS[draw(st.sampled_from(sorted(CONFIGS)))]
    chips = 2 ** draw(st.integers(0, 7))
    tp = 2 ** draw(st.integers(0, min(3, chips.bit_length() - 1)))
    return Scenario(
        config=config,
        chip=draw(st.sampled_from(COMPLETE)),
        layout=Layout(chips=chips, tp=tp),
        precision=draw(st.sampled_from(sorted(PRECISIONS.values(), key=lambda p: p.name))),
        context_len=draw(st.integers(256, config.max_position_embeddings // 2)),
        batch=draw(st.integers(1, 4096)),
        drafts=draw(st.integers(0, 3)),
        overlap=draw(st.sampled_from(["none", "two_stage", "waves"])),
    )


def scaled(chip: Chip, factor: float) -> Chip:
    """Every rate of a chip times `factor`."""
    chip = replace(chip, flops={name: factor * rate for name, rate in chip.flops.items()})
    for key in ("mem_bw", "link", "scaleout"):
        value = chip.get(key)
        if value is not None:
            chip = set_value(chip, key, factor * value)
    return chip


@given(scenarios(), st.sampled_from(["mem_bw", "link", "scaleout"]), st.floats(1, 64))
def test_a_faster_memory_or_link_never_slows_a_step(
    scenario: Scenario, key: str, factor: float
) -> None:
    value = scenario.chip.get(key)
    if not value:
        return
    better = replace(scenario, chip=set_value(scenario.chip, key, factor * value))
    assert central_tpot(better, FACTORS) <= central_tpot(scenario, FACTORS) * (1 + 1e-12)


@given(scenarios(), st.floats(1, 64))
def test_units_are_consistent_all_rates_times_k_is_all_times_over_k(
    scenario: Scenario, factor: float
) -> None:
    # if any term mixed units (a rate taken for a time, bytes for FLOPs), this could not hold
    faster = replace(scenario, chip=scaled(scenario.chip, factor))
    factors = replace(
        FACTORS,
        call_s=FACTORS.call_s / factor,
        draft_s=FACTORS.draft_s / factor,
        select_per_s=FACTORS.select_per_s * factor,
    )
    before = central_tpot(scenario, FACTORS)
    assert central_tpot(faster, factors) * factor == pytest.approx(before, rel=1e-9)


@given(scenarios(), st.integers(1, 4))
def test_more_context_or_requests_never_shorten_a_step(scenario: Scenario, times: int) -> None:
    before = central_tpot(scenario, FACTORS)
    crowded = replace(scenario, batch=scenario.batch * times)
    assert central_tpot(crowded, FACTORS) >= before * (1 - 1e-12)
    longer = min(scenario.context_len * times, scenario.config.max_position_embeddings)
    # a multiple of 128 sees every compressed entry that the shorter context saw
    assert central_tpot(replace(scenario, context_len=longer), FACTORS) >= before * (1 - 1e-12)


@given(scenarios())
def test_a_doubled_batch_never_lowers_throughput(scenario: Scenario) -> None:
    # whole tiles and whole requests per group: the same padding before and after
    per_group = -(-scenario.batch // scenario.layout.dp)
    full = replace(scenario, batch=16 * per_group * scenario.layout.dp)
    twice = replace(full, batch=2 * full.batch)
    rate = full.batch / central_tpot(full, FACTORS)
    assert twice.batch / central_tpot(twice, FACTORS) >= rate * (1 - 1e-9)


@given(scenarios())
def test_parts_add_up_and_the_interval_contains_the_centre(scenario: Scenario) -> None:
    point = decode(scenario, default_calibration())
    if math.isinf(point.tpot_s):
        assert scenario.layout.chips > 1
        return
    assert sum(point.step.parts().values()) == pytest.approx(point.step.total_s, rel=1e-12)
    assert 0 < point.tpot_low_s < point.tpot_s < point.tpot_high_s
    assert point.step.link_s <= point.step.link_busy_s * (1 + 1e-12)


@given(scenarios())
def test_infinite_rates_leave_only_latencies(scenario: Scenario) -> None:
    endless = scaled(scenario.chip, 1e30)
    for key in ("link", "scaleout"):
        if not endless.get(key):
            endless = set_value(endless, key, 1e40)
    step = Step(context_len=scenario.context_len, requests=scenario.batch, drafts=scenario.drafts)
    ideal = ideal_step(
        scenario.config, step, scenario.layout, endless, scenario.precision, scenario.overlap
    )
    assert ideal.at(Factors()).total_s < 1e-9
    timed = ideal.at(FACTORS)
    rest = timed.launch_s + timed.select_s + timed.draft_s
    assert timed.total_s == pytest.approx(rest, abs=1e-9)


def test_zero_link_stops_expert_parallelism_and_nothing_else() -> None:
    chip = set_value(set_value(CHIPS["huawei_950dt"], "link", 0.0), "scaleout", 0.0)
    one = Scenario(
        config=CONFIGS["v4-flash"], chip=chip, layout=Layout(chips=1),
        precision=find_precision("release"), context_len=4096, batch=1,
    )  # fmt: skip
    assert math.isfinite(central_tpot(one, FACTORS))
    assert central_tpot(replace(one, layout=Layout(chips=2)), FACTORS) == math.inf
    assert decode(replace(one, layout=Layout(chips=2)), default_calibration()).tpot_s == math.inf


@given(scenarios(), st.integers(2, 6))
def test_prefill_time_grows_with_the_prompt_and_shrinks_with_a_hit(
    scenario: Scenario, times: int
) -> None:
    calibration = default_calibration()
    short = replace(scenario, context_len=max(256, scenario.context_len // times))
    long = replace(scenario, context_len=short.context_len * times)
    if math.isinf(prefill(short, calibration).ttft_s):
        return
    whole = prefill(long, calibration).ttft_s
    # chunks are cut to equal lengths, so a longer prompt may have slightly smaller chunks
    assert whole >= prefill(short, calibration).ttft_s * 0.9
    assert prefill(long, calibration, cached_tokens=long.context_len // 2).ttft_s <= whole * 1.0001


@given(st.floats(0, 3), st.integers(1, 64))
def test_overlap_never_loses_to_none_and_more_waves_never_hurt(x: float, waves: int) -> None:
    assert moe_time(x, "two_stage") <= moe_time(x, "none") + 1e-12
    if x <= 1 or waves > 1:
        assert moe_time(x, "waves", waves + 1) <= moe_time(x, "waves", waves) + 1e-12
    assert moe_time(x, "waves", waves) >= max(1.0, x)


@given(scenarios())
def test_memory_is_conserved_when_experts_spread(scenario: Scenario) -> None:
    config, precision = scenario.config, scenario.precision
    need = memory_need(config, scenario.layout, scenario.chip, precision, scenario.context_len, 1)
    wide = Layout(chips=2 * scenario.layout.chips, tp=scenario.layout.tp)
    after = memory_need(config, wide, scenario.chip, precision, scenario.context_len, 1)
    assert after.experts <= need.experts
    assert after.dense <= need.dense
    assert after.kv == need.kv


def test_one_chip_reads_every_weight_once_in_a_full_batch() -> None:
    """The bytes of a step that touches all experts are the checkpoint without embedding and MTP."""
    config, precision = CONFIGS["v4-flash"], find_precision("release")
    step = Step(context_len=128, requests=4096, routing="balanced")
    work = main_work(config, step, Layout(chips=1), precision)
    read = sum(operator.weight_bytes for operator in work.operators)
    stored = sum(
        weight.stored_bytes
        for weight in main_weights(config)
        if weight.is_matmul and weight.group != "embedding"
    )
    assert read == pytest.approx(stored, rel=1e-3)  # scales of odd edges are rounded up in files


def test_a_chip_without_a_format_pays_for_it() -> None:
    chip = CHIPS["nvidia_h20"]
    assert compute_rate(chip, "fp4") == (296e12, "fp8")
    without = replace(chip, flops={k: v for k, v in chip.flops.items() if k not in ("fp8", "fp4")})
    assert compute_rate(without, "fp8") == (148e12, "bf16")
