"""Exchangeable parts between V3.2 and V4-Pro, and the crossovers of overlap and recomputation."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dougong.config import load_config
from dougong.plan import flops, kv
from dougong.plan.chips import load_chips, set_value
from dougong.plan.crossovers import (
    hiding_share,
    link_to_hide,
    offload_s_per_byte,
    recompute_flops_per_byte,
    recompute_s_per_byte,
    tokens_that_fit,
    waves_to_win,
)
from dougong.plan.overlap import moe_time, wave_crossover
from dougong.plan.parameters import checkpoint_bytes
from dougong.plan.upgrades import (
    PARTS,
    Hybrid,
    cache_bytes,
    decode_flops,
    largest_batch,
    read_bytes,
    throughput_bound,
    weight_bytes,
)

MILLION = 1 << 20
ENDS = [(Hybrid(), "v3.2"), (Hybrid.all(), "v4-pro")]


@pytest.mark.parametrize("context_len", [0, 127, 4096, 131071, MILLION])
@pytest.mark.parametrize(("hybrid", "preset"), ENDS, ids=["v3.2", "v4-pro"])
def test_the_ends_are_the_released_models_to_the_flop_and_byte(
    hybrid: Hybrid, preset: str, context_len: int
) -> None:
    config = load_config(preset)
    assert decode_flops(hybrid, context_len) == pytest.approx(
        flops.decode_flops_fp8_equivalent(config, context_len).total, rel=1e-12
    )
    assert cache_bytes(hybrid, context_len) == kv.kv_bytes(config, context_len)
    assert weight_bytes(hybrid) == checkpoint_bytes(config, with_mtp=False)


def test_together_they_reach_the_published_27_and_10_percent() -> None:
    old, new = Hybrid(), Hybrid.all()
    assert decode_flops(new, MILLION) / decode_flops(old, MILLION) == pytest.approx(0.27, abs=0.005)
    assert cache_bytes(new, MILLION) / cache_bytes(old, MILLION) == pytest.approx(0.10, abs=0.006)


@pytest.mark.parametrize("part", PARTS)
def test_a_part_exchanged_and_exchanged_back_changes_nothing(part: str) -> None:
    there = replace(Hybrid(), **{part: True})
    assert replace(there, **{part: False}) == Hybrid()
    assert there != Hybrid()


def test_only_the_index_parts_touch_index_keys() -> None:
    # 61 layers x 64 bytes less a key and token in FP4; nothing else reads less
    old, new = Hybrid(), Hybrid(fp4_index=True)
    assert cache_bytes(old, 1000) - cache_bytes(new, 1000) == 61 * 1000 * (132 - 68)
    assert read_bytes(old, 10_000) - read_bytes(new, 10_000) == 61 * 10_000 * (132 - 68)


def test_compression_divides_entries_by_4_and_128() -> None:
    compressed = Hybrid(compression=True)
    more = cache_bytes(compressed, MILLION) - cache_bytes(compressed, MILLION - 128)
    # 30 CSA layers x 32 (656 + 132) and 31 HCA layers x 1 x 656 for each 128 tokens
    assert more == 30 * 32 * (656 + 132) + 31 * 656


def test_weights_that_do_not_fit_leave_no_throughput() -> None:
    chip = load_chips()["huawei_910b"]
    assert largest_batch(Hybrid(), chip, 4, 4096) == 0
    assert throughput_bound(Hybrid(), chip, 4, 4096) == 0.0


@given(st.sampled_from(["mem", "mem_bw", "fp8", "link"]), st.floats(1.0, 8.0))
def test_more_of_anything_never_slows_a_hybrid(key: str, factor: float) -> None:
    chip = load_chips()["huawei_950dt"]
    better = set_value(chip, key, chip.need(key) * factor)
    before, after = (throughput_bound(Hybrid.all(), c, 16, 1 << 17) for c in (chip, better))
    if key != "mem":  # a larger batch also sends more, which may cost a little per token
        assert after >= before * (1 - 1e-12)
    assert after > 0


@given(st.floats(0.51, 1.99))
def test_more_waves_than_the_crossover_win_and_fewer_lose(x: float) -> None:
    waves = waves_to_win(x)
    two_stage = moe_time(x, "two_stage")
    if math.ceil(waves) == waves:
        return
    assert moe_time(x, "waves", math.ceil(waves)) < two_stage + 1e-12
    if waves > 1:
        assert moe_time(x, "waves", math.floor(waves)) > two_stage - 1e-12


@pytest.mark.parametrize("waves", [4, 8, 16])
def test_the_crossover_is_the_inverse_of_the_published_one(waves: int) -> None:
    # infrastructure.md 1.4: 0.80 (W = 4), 0.62 (8), 0.55 (16)
    assert waves_to_win(wave_crossover(waves)) == pytest.approx(waves, rel=1e-9)
    assert wave_crossover(waves) == pytest.approx({4: 0.80, 8: 0.62, 16: 0.55}[waves], abs=0.005)


@pytest.mark.parametrize("x", [0.0, 0.3, 0.5, 2.0, 5.0])
def test_where_two_stages_already_do_all_no_number_of_waves_wins(x: float) -> None:
    assert math.isinf(waves_to_win(x))
    assert moe_time(x, "waves", 1000) >= moe_time(x, "two_stage")


def test_the_h800_hides_v4_pro_at_three_fifths_of_its_peak() -> None:
    # hardware.md 7: 9,894 FLOP/B; "at 60 % achieved FLOPS ... passes for Pro"
    assert hiding_share(1978.9e12 / 200e9, 3072) == pytest.approx(6144 / 9894.5, rel=1e-4)
    assert hiding_share(658, 3072) == 1.0
    assert link_to_hide(6144e9, 3072) == pytest.approx(1e9)


def test_recomputing_pays_above_the_crossover_and_not_below() -> None:
    pro = load_config("v4-pro")
    host = 64e9
    peak = recompute_flops_per_byte(pro) * host / 2 / 0.35  # training efficiency
    assert recompute_s_per_byte(pro, peak) == pytest.approx(offload_s_per_byte(host))
    assert recompute_s_per_byte(pro, 2 * peak) < offload_s_per_byte(host)


def test_tokens_that_fit_are_never_negative() -> None:
    chip = load_chips()["nvidia_h20"]
    assert tokens_that_fit(chip, 200e9, 1e6) == 0
    assert tokens_that_fit(chip, 0.0, 0.9 * 96e9 / 10) == 10
