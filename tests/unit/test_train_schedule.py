"""The schedule: every step's phase, batch and rates, against what the report says of V4's runs."""

import math
from pathlib import Path
from typing import Any

import pytest

from dougong.train.config import RunConfig, run_config_from_dict
from dougong.train.schedule import plan_steps
from tests.support import training


def config(phases: list[dict[str, Any]], **schedule: object) -> RunConfig:
    values = training.values(Path("inputs"), Path("run"), **schedule)
    mix = {"mix": {"stories": 1.0}}
    return run_config_from_dict(values | {"phases": [mix | phase for phase in phases]})


def test_rates_warm_up_stay_and_decay() -> None:
    one = {"share": 1.0, "max_length": 100, "batch_tokens": 100}
    steps = plan_steps(config([one], tokens=10_000, warmup=10, decay=0.4, final_lr=0.1))
    rates = [step.lr for step in steps]
    assert len(rates) == 100
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:60] == [1.0] * 51
    assert all(a > b for a, b in zip(rates[60:], rates[61:], strict=False))
    assert rates[99] == pytest.approx(0.1)
    assert [step.mtp_weight for step in (steps[59], steps[60])] == [0.3, 0.1]


def test_phases_get_their_share_of_the_tokens() -> None:
    """Lengths 4K, 16K, 64K with batches of their own; the MTP loss can be left out of a phase."""
    phases = [
        {"share": 0.7, "max_length": 4096, "batch_tokens": 4096 * 8},
        {"share": 0.2, "max_length": 16384, "batch_tokens": 4096 * 16},
        {"share": 0.1, "max_length": 65536, "batch_tokens": 4096 * 32, "mtp": False},
    ]
    steps = plan_steps(config(phases, tokens=100_000_000))
    total = sum(step.batch_tokens for step in steps)
    for i, phase in enumerate(phases):
        read = sum(step.batch_tokens for step in steps if step.phase == i)
        assert read / total == pytest.approx(phase["share"], abs=0.002)
    assert [step.phase for step in steps] == sorted(step.phase for step in steps)
    assert {step.mtp_weight for step in steps if step.phase == 2} == {0.0}
    assert all(
        a.tokens + a.batch_tokens == b.tokens for a, b in zip(steps, steps[1:], strict=False)
    )


def test_published_schedule_of_v4_flash() -> None:
    """Specification 8: 2,000 steps to 2.7e-4, constant, cosine to 2.7e-5; batches ramped to 75.5 M.

    Where decay and ramp end is not published; here the last tenth and the first hundredth.
    """
    phase = {"share": 1.0, "max_length": 4096, "batch_tokens": 75_500_000}
    steps = plan_steps(
        config(
            [phase],
            tokens=32_000_000_000_000,
            warmup=2000,
            decay=0.1,
            decay_shape="cosine",
            final_lr=0.1,
            batch_growth=0.01,
            batch_start=0.25,
        )
    )
    peak = 2.7e-4
    assert peak * steps[999].lr == pytest.approx(1.35e-4)
    assert peak * steps[1999].lr == peak
    assert peak * steps[len(steps) // 2].lr == peak
    assert peak * steps[-1].lr == pytest.approx(2.7e-5)
    middle = min(steps, key=lambda step: abs(step.tokens - 0.95 * 32e12))
    assert middle.lr == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 2)) / 2, abs=1e-4)
    sizes = [step.batch_tokens for step in steps]
    assert sizes == sorted(sizes)
    assert (sizes[0], sizes[-1]) == (75_500_000 // 4, 75_500_000)
    assert (steps[0].mtp_weight, steps[-1].mtp_weight) == (0.3, 0.1)
