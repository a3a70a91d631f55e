"""One step by hand: bytes, FLOPs, the slower of compute and memory, and how chips are split."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dougong.config import load_config
from dougong.errors import InputError
from dougong.plan.calibration import _BETWEEN, SOFTWARE_SIGMA, Z90, fit, log_time
from dougong.plan.chips import load_chips, set_value
from dougong.plan.layout import Layout, default_layout, largest_batch, memory_need, smallest_count
from dougong.plan.operators import Step, draft_work, expert_load, main_work
from dougong.plan.precision import find_precision, precisions_for
from dougong.plan.predict import prefill, scenario_for
from dougong.plan.roofline import LINK_EFFICIENCY, Factors, OperatorTime, ideal_step, link_seconds
from dougong.plan.search import Wanted, split_prefill

FLASH, PRO, V32 = (load_config(name) for name in ("v4-flash", "v4-pro", "v3.2"))
CHIPS = load_chips()
RELEASE = find_precision("release")


def test_an_operator_takes_the_slower_of_compute_and_memory() -> None:
    one = OperatorTime(
        name="x", format="fp8", flops=6.0, memory_bytes=3.0, compute_s=2.0, memory_s=3.0
    )
    assert (one.seconds, one.bound, one.intensity) == (3.0, "memory", 2.0)
    faster = one.at(Factors(memory_efficiency=1.0, compute_efficiency=0.25))
    assert (faster.seconds, faster.bound) == (8.0, "compute")


def test_cache_bytes_of_one_decoded_token_by_hand() -> None:
    work = main_work(FLASH, Step(context_len=8192, requests=1), Layout(chips=1), RELEASE)
    cache = {operator.name: operator.cache_bytes for operator in work.operators}
    # 2 windows; 21 CSA layers of window + 512 picks; 20 HCA layers of window + 8192/128 entries
    assert cache["attention"] == 584 * (2 * 128 + 21 * (128 + 512) + 20 * (128 + 64))
    assert cache["index scores"] == 21 * 2048 * 68
    assert work.selections == 21 * 2048


def test_drafted_positions_share_dense_reads_and_gather_their_own_picks() -> None:
    work = main_work(FLASH, Step(context_len=8192, requests=1, drafts=1), Layout(chips=1), RELEASE)
    cache = {operator.name: operator.cache_bytes for operator in work.operators}
    assert cache["attention"] == 584 * (2 * 128 + 21 * (128 + 1024) + 20 * (128 + 64))
    assert cache["index scores"] == 21 * 2048 * 68


def test_v3_2_reads_2048_tokens_and_one_key_per_token() -> None:
    work = main_work(
        V32, Step(context_len=65536, requests=1), Layout(chips=1), find_precision("fp8")
    )
    cache = {operator.name: operator.cache_bytes for operator in work.operators}
    assert cache["attention"] == 61 * 2048 * 656
    assert cache["index scores"] == 61 * 65536 * 132


def test_expert_traffic_of_one_token_is_three_hidden_sizes_per_remote_pair() -> None:
    step = Step(context_len=128, requests=16, routing="balanced")
    work = main_work(FLASH, step, Layout(chips=16), RELEASE)
    # one token a chip, six experts, 15 of 16 remote, FP8 there and BF16 back, 43 layers
    assert work.expert_link_bytes == 43 * 6 * 15 / 16 * 3 * 4096
    assert work.group_link_bytes == 0


def test_balanced_routing_touches_every_expert_once_there_are_enough_pairs() -> None:
    step = Step(context_len=128, requests=64, routing="balanced")
    assert expert_load(PRO, step, Layout(chips=16)) == (24, 24, 24)  # 384 pairs, 384 experts
    pairs, touched, busiest = expert_load(PRO, Step(context_len=128, requests=64), Layout(chips=16))
    assert pairs == 24
    assert touched == pytest.approx(24 * (1 - (1 - 6 / 384) ** 64))
    assert busiest > pairs


def test_a_draft_pass_runs_one_block_and_the_head() -> None:
    step = Step(context_len=8192, requests=1, drafts=3, routing="balanced")
    draft = draft_work(FLASH, step, Layout(chips=1), RELEASE)
    assert draft is not None
    weights = {operator.name: operator.weight_bytes for operator in draft.operators}
    assert weights["head"] == 2 * 129280 * 4096
    assert weights["routed experts"] == pytest.approx(6 * 3 * 4096 * 2048 * (0.5 + 1 / 32))
    assert draft_work(FLASH, Step(context_len=8192, requests=1), Layout(chips=1), RELEASE) is None


def test_links_inside_and_beyond_the_domain() -> None:
    h20 = CHIPS["nvidia_h20"]
    inside = link_seconds(h20, 8, 450e9)
    assert inside == pytest.approx(1 / LINK_EFFICIENCY)
    # 16 chips: 8 of 15 peers are outside and reached at 50 GB/s, while 7 of 15 go inside
    beyond = link_seconds(h20, 16, 450e9)
    assert beyond == pytest.approx(450 / 50 * 8 / 15 / LINK_EFFICIENCY)
    without = set_value(h20, "link", 0.0)
    assert link_seconds(without, 8, 50e9) == pytest.approx(1 / LINK_EFFICIENCY)
    assert link_seconds(set_value(without, "scaleout", 0.0), 8, 1.0) == math.inf
    assert link_seconds(h20, 1, 1e9) == link_seconds(h20, 8, 0) == 0


def test_layouts() -> None:
    assert default_layout(16, 16) == Layout(chips=16, tp=1)
    assert default_layout(8, 1) == Layout(chips=8, tp=8)
    assert default_layout(16, 4) == Layout(chips=16, tp=4)
    assert Layout(chips=16, tp=2, cp=2).label() == "TP2 DP4 EP16 CP2"
    with pytest.raises(InputError, match="must divide the number of chips"):
        Layout(chips=6, tp=4)


def test_memory_of_flash_on_two_large_cards() -> None:
    """low_precision_models.csv: the release fits two 141 GB cards; one is too small."""
    chip = CHIPS["nvidia_h200_sxm"]
    assert not memory_need(FLASH, Layout(chips=1), chip, RELEASE, 8192, 1).fits
    assert memory_need(FLASH, Layout(chips=2), chip, RELEASE, 8192, 1).fits
    assert smallest_count(FLASH, chip, RELEASE, 8192, 1) == 2
    layout = Layout(chips=2)
    most = largest_batch(FLASH, layout, chip, RELEASE, 8192)
    assert memory_need(FLASH, layout, chip, RELEASE, 8192, most).fits
    assert not memory_need(FLASH, layout, chip, RELEASE, 8192, most + layout.dp).fits
    assert largest_batch(FLASH, Layout(chips=1), chip, RELEASE, 8192) == 0


def test_prefill_share_feeds_decode_exactly() -> None:
    reading = prefill(
        scenario_for(FLASH, CHIPS["huawei_950dt"], 16, 8192, 16),
        fit([]),
    )
    wanted = Wanted(context_len=16384, prompt_len=8000, output_len=1000, hit_rate=0.5)
    share = split_prefill(1000.0, reading, wanted)
    # (1 - p) decode chips make 1,000 tokens/s each and need 4 fresh prompt tokens per token
    assert share * reading.tokens_per_s_per_chip == pytest.approx((1 - share) * 1000 * 4)


def test_interval_of_a_class_without_rows_by_hand() -> None:
    chip, prior = CHIPS["nvidia_h20"], fit([])
    ideal = ideal_step(FLASH, Step(context_len=8192, requests=64), Layout(chips=8), chip, RELEASE)
    predicted = prior.predict(ideal, chip, sigma=0.1)
    theta, step = prior.common, 1e-4
    slope = np.array(
        [(log_time(ideal, theta + step * e) - log_time(ideal, theta)) / step for e in np.eye(5)]
    )
    spread = prior.covariance[:5, :5] + np.diag(_BETWEEN**2)
    variance = float(slope @ spread @ slope) + 0.1**2 + SOFTWARE_SIGMA**2
    assert math.log(predicted.high / predicted.seconds) == pytest.approx(
        Z90 * math.sqrt(variance), rel=1e-9
    )


def test_prefill_anchors_lie_inside_their_interval() -> None:
    """R1 prefill was not fitted: GB200 26,156 tokens/s per GPU at 2,000 tokens; 910C 6,688."""
    from dougong.plan.calibration import default_calibration

    config = load_config("v3")
    for chip, count, prompt, measured in (
        ("nvidia_gb200_nvl72", 72, 2000, 26156),
        ("huawei_910c", 32, 4096, 6688),
    ):
        scenario = scenario_for(config, CHIPS[chip], count, prompt, count)
        ours = prefill(scenario, default_calibration())
        low, high = (
            ours.tokens_per_s_per_chip * ours.ttft_s / bound
            for bound in (ours.ttft_high_s, ours.ttft_low_s)
        )
        assert low < measured < high


def test_only_formats_that_chip_and_checkpoint_have_are_offered() -> None:
    """H20 has FP8 and INT8, 950DT also FP4 and HiF8, 910B INT8; V3 stores no FP4."""
    offered = {
        (chip, model): {one.name for one in precisions_for(CHIPS[chip], load_config(model))}
        for chip in ("nvidia_h20", "huawei_950dt", "huawei_910b")
        for model in ("v4-flash", "v3")
    }
    assert offered["nvidia_h20", "v4-flash"] == {"release", "int8", "w4a8"}
    assert offered["nvidia_h20", "v3"] == {"fp8", "int8", "w4a8"}
    assert {"release", "hif8", "fp4"} <= offered["huawei_950dt", "v4-flash"]
    assert offered["huawei_910b", "v4-flash"] == {"int8", "w4a8"}
