"""How good the predictions are: on rows left out, on a chip left out, against a regression.

The limits are issue 3's targets; what was reached when this was written stands beside each.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from dougong.plan.benchmarks import Case, Unmodelled, read_case
from dougong.plan.calibration import (
    NAMES,
    PRIORS,
    chip_class,
    default_calibration,
    fit,
    published_cases,
)
from dougong.plan.chips import load_chips
from dougong.plan.evaluate import (
    evaluate,
    leave_chip_out,
    leave_one_out,
    loglinear_errors,
    read_cases,
)
from dougong.plan.predict import decode, scenario_for
from dougong.plan.tables import load_table

CHIPS = load_chips()
ROWS = load_table("v4_inference_benchmarks")
CASES, UNMODELLED = read_cases(ROWS, CHIPS)


def test_rows_left_out_are_within_the_targets() -> None:
    result = leave_one_out(CASES, UNMODELLED)
    median, p90 = result.quantile(0.5), result.quantile(0.9)
    assert median is not None
    assert p90 is not None
    assert median <= 0.15  # 0.040
    assert p90 <= 0.25  # 0.143
    coverage = result.coverage()
    assert coverage is not None
    assert (
        coverage >= 0.8
    )  # 0.94 of 18; a 90 % interval misses 4 or more of 18 in 10 % of the cases


def test_a_log_linear_regression_on_the_same_rows_is_clearly_worse() -> None:
    ours = leave_one_out(CASES, UNMODELLED)
    theirs = np.abs(loglinear_errors(CASES))
    for share in (0.5, 0.9):
        mine = ours.quantile(share)
        assert mine is not None
        assert mine < 0.5 * float(np.quantile(theirs, share))  # 0.37 and 0.68 against 0.04, 0.14


def test_a_whole_chip_left_out_lies_inside_its_interval() -> None:
    result = leave_chip_out(CASES, UNMODELLED)
    assert len({case.chip.id for case in CASES}) >= 2
    assert result.coverage() == 1.0
    p90 = result.quantile(0.9)
    assert p90 is not None
    assert p90 <= 0.25  # 0.170


def test_a_chip_left_out_keeps_the_order_of_its_rows() -> None:
    # rows whose measured times differ by more than the rows' own scatter (10 %)
    result = leave_chip_out(CASES, UNMODELLED)
    rows = [one for one in result.results if "950dt" in one.label]
    ordered = sorted(rows, key=lambda one: one.measured_s)
    wrong = [
        (slow.label, fast.label)
        for i, fast in enumerate(ordered)
        for slow in ordered[i + 1 :]
        if slow.measured_s > 1.35 * fast.measured_s and slow.predicted_s < fast.predicted_s
    ]
    assert wrong == []


def test_every_row_is_modelled_or_named_with_a_reason() -> None:
    assert len(CASES) + len(UNMODELLED) == len(ROWS) == 32
    assert len(CASES) == 18
    assert all(one.reason and one.label for one in UNMODELLED)
    report = evaluate(CASES, UNMODELLED, lambda _: default_calibration()).as_dict()
    assert {"rows", "modelled", "median_abs_rel_error", "p90_abs_rel_error", "per_row"} <= set(
        report
    )
    per_row = report["per_row"]
    assert isinstance(per_row, list)
    assert [entry["row"] for entry in per_row] == list(range(1, 33))


def test_published_decode_order_of_chips_is_never_reversed() -> None:
    """R1 decode, tokens/s per chip: GB300 11,951 > B200 9,789 > 910C 1,943."""
    config = next(case.config for case in CASES if case.chip.id == "huawei_910c")
    order = ("nvidia_gb300_nvl72", "nvidia_b200_sxm", "huawei_910c", "huawei_910b")
    for count, batch, context in ((32, 32, 4096), (64, 2048, 4096), (64, 512, 65536)):
        rates = []
        for chip in order:
            scenario = scenario_for(config, CHIPS[chip], count, context, batch)
            rates.append(decode(scenario, default_calibration()).tokens_per_s_per_chip)
        assert all(fast >= slow for fast, slow in pairwise(rates)), (count, batch, rates)


def test_bandwidth_ranks_decode_chips_where_peak_flops_would_not() -> None:
    """hardware.md 1: H20 and 950DT are decode parts; at small batches H20 beats 950PR."""
    flash = CASES[0].config
    rates = {
        chip: decode(
            scenario_for(flash, CHIPS[chip], 8, 8192, 8), default_calibration()
        ).tokens_per_s_per_chip
        for chip in ("nvidia_h20", "huawei_950pr", "huawei_950dt")
    }
    assert rates["huawei_950dt"] > rates["huawei_950pr"]
    assert rates["nvidia_h20"] > rates["huawei_950pr"]


def test_a_fit_on_no_rows_is_the_prior() -> None:
    nothing = fit([])
    assert np.exp(nothing.common) == pytest.approx([PRIORS[name][0] for name in NAMES])
    assert not nothing.rows


def test_fitted_factors_are_physical_and_carry_an_interval() -> None:
    for case in CASES:
        for name, (value, low, high) in default_calibration().factor_table(case.chip).items():
            assert 0 < low < value < high
            if name.endswith("efficiency"):
                assert value < 1


def test_a_class_without_rows_gets_a_wider_interval() -> None:
    case = CASES[0]
    seen = default_calibration().predict(case.ideal, case.chip)
    unseen = default_calibration().predict(case.ideal, CHIPS["nvidia_h20"])
    assert seen.high / seen.low < unseen.high / unseen.low


def test_classes_follow_architectures() -> None:
    assert chip_class(CHIPS["huawei_950dt"]) == chip_class(CHIPS["huawei_950pr"]) == "ascend-950"
    assert chip_class(CHIPS["huawei_910b"]) == chip_class(CHIPS["huawei_910c_die"]) == "ascend-910"
    assert chip_class(CHIPS["nvidia_h20"]) == chip_class(CHIPS["nvidia_h200_sxm"]) == "hopper"
    assert chip_class(CHIPS["nvidia_gb300_nvl72"]) == "blackwell"
    assert chip_class(CHIPS["nvidia_rtxpro6000"]) == "rtx"
    assert chip_class(CHIPS["amd_epyc_9965"]) == "cpu"
    assert chip_class(CHIPS["mthreads_s5000"]) == "moore"


def one_row(**changes: str) -> Case | Unmodelled:
    return read_case(1, ROWS[0] | changes, CHIPS)


def test_rows_are_read_as_published() -> None:
    case = one_row()
    assert isinstance(case, Case)
    assert (case.layout.label(), case.step.drafts, case.step.routing) == (
        "TP1 DP16 EP16", 3, "balanced",
    )  # fmt: skip
    assert case.immature
    assert case.tpot_s == pytest.approx(6.71e-3)
    assert case.tokens_per_s_per_chip == pytest.approx(148.96, rel=2e-3)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model": "GLM-5"}, "is not one we have a configuration for"),
        ({"model": "DeepSeek-V4.1-Flash"}, "is not one we have a configuration for"),
        ({"hardware": "tpu_v9"}, "is not in accelerators.csv"),
        ({"phase": "prefill"}, "only decode rows"),
        ({"mtp": ""}, "--assume-mtp"),
        ({"mtp": "MTP"}, "--assume-mtp"),
        ({"seq_len": ""}, "seq_len is ''"),
        ({"chips": "some"}, "chips is 'some'; a number"),
        ({"tpot_ms": "", "tok_s_per_chip": ""}, "the operating point is missing"),
        ({"hardware": "hygon_bw1000"}, "not published"),
        ({"model": "DeepSeek-R1-Distill-Qwen-32B"}, "is not one we have a configuration for"),
        ({"phase": "training"}, "only decode rows"),
        ({"precision": "FP3"}, "precision 'FP3' is not one we model"),
        ({"seq_len": "nan"}, "seq_len is 'nan'"),
        ({"seq_len": "1e12"}, "the model takes at most 1048576 tokens"),
        ({"chips": "inf"}, "chips is 'inf'"),
        ({"global_batch": "0.5"}, "a whole number of at least 1"),
        ({"tpot_ms": "-3"}, "a number above 0 is needed"),
    ],
)
def test_rows_that_cannot_be_computed_say_why(change: dict[str, str], reason: str) -> None:
    case = one_row(**change)
    assert isinstance(case, Unmodelled)
    assert reason in case.reason


@pytest.mark.parametrize(
    "name", ["deepseek-ai/DeepSeek-V4-Flash", "deepseek_v4_flash", "DeepSeek V4 Flash"]
)
def test_a_model_is_known_however_its_name_is_written(name: str) -> None:
    written, published = one_row(model=name), one_row()
    assert isinstance(written, Case)
    assert isinstance(published, Case)
    assert written.config is published.config


def test_requests_in_flight_follow_from_littles_law() -> None:
    case = one_row(global_batch="", tpot_ms="10", tok_s_per_chip="100")
    assert isinstance(case, Case)
    assert case.step.requests == 16  # 100 tokens/s x 16 chips x 10 ms


def test_a3_tables_of_cann_count_dies_and_others_packages() -> None:
    cann = one_row(hardware="huawei_910c", precision="W8A8")
    paper = one_row(hardware="huawei_910c", precision="W8A8", source="a paper")
    assert isinstance(cann, Case)
    assert isinstance(paper, Case)
    assert (cann.chip.id, paper.chip.id) == ("huawei_910c_die", "huawei_910c")
    forced = read_case(1, ROWS[0] | {"hardware": "huawei_910c"}, CHIPS, "package")
    assert isinstance(forced, Case)
    assert forced.chip.id == "huawei_910c"


def test_single_stream_rows_of_sglang_at_900k_tokens_are_predicted_from_4k() -> None:
    """The notes give B200's speed at 900K tokens, which no row of the fit holds: 180 tokens/s."""
    row = next(r for r in ROWS if r["hardware"] == "nvidia_b200_sxm" and r["seq_len"] == "4096")
    case = read_case(1, row | {"seq_len": "900000", "tpot_ms": "5.56"}, CHIPS)
    assert isinstance(case, Case)
    assert case.step.drafts == 3
    predicted = default_calibration().predict(case.ideal, case.chip).seconds / case.tokens_per_step
    assert predicted == pytest.approx(1 / 180, rel=0.15)  # 0.01


# Operating points that only notes of the table state; the H200's chips are not, we take a node.
OUTSIDE_THE_FIT = [
    ("huawei_910c", {"tpot_ms": "15", "tok_s_per_chip": "538"}),  # CloudMatrix384's low latency
    ("nvidia_h200_sxm", {"chips": "8", "mtp": "3"}),
    ("nvidia_h200_sxm", {"chips": "8", "mtp": "3", "seq_len": "900000", "tpot_ms": "4.17"}),
]


@pytest.mark.parametrize(("chip", "change"), OUTSIDE_THE_FIT)
def test_published_points_outside_the_fit_lie_in_their_interval(
    chip: str, change: dict[str, str]
) -> None:
    row = next(r for r in ROWS if r["hardware"] == chip and r["confidence"].startswith(("h", "m")))
    case = read_case(1, row | change, CHIPS)
    assert isinstance(case, Case)
    (result,) = evaluate([case], (), lambda _: default_calibration()).results
    assert result.inside
    assert abs(result.error) <= 0.25  # -0.22, +0.15, +0.16


def test_v4_single_streams_order_as_published() -> None:
    """Flash: H200 3.76 ms, 950DT 6.27 (HiF8) and 6.71 (day 0); Pro: B200 5.03, 950DT 17.23."""
    predicted = {}
    for index in (1, 7, 13, 31, 32):
        case = read_case(index, ROWS[index - 1] | {"chips": ROWS[index - 1]["chips"] or "8"}, CHIPS)
        assert isinstance(case, Case)
        (one,) = evaluate([case], (), lambda _: default_calibration()).results
        predicted[index] = one.predicted_s
    assert predicted[32] < predicted[7] < predicted[1] < predicted[13]
    assert predicted[31] < predicted[13]


def test_formats_order_as_cann_measured_them() -> None:
    """HiF8 is about 3 % ahead of MXFP8, 128x128-block FP8 19 % behind (hardware.md 3)."""
    times = []
    for precision in ("HiF8-MXFP8-MXFP4", "MXFP8-MXFP4", "FP8-MXFP4"):
        case = one_row(precision=precision, global_batch="1536", mtp="1")
        assert isinstance(case, Case)
        times.append(default_calibration().predict(case.ideal, case.chip).seconds)
    hif8, mxfp8, block = times
    assert 1.0 < mxfp8 / hif8 < 1.06
    assert 1.10 < block / mxfp8 < 1.20


def test_the_default_fit_uses_exactly_the_modelled_published_rows() -> None:
    assert sum(default_calibration().rows.values()) == len(published_cases()) == len(CASES)
