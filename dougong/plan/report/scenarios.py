"""Decode and prefill scenarios that several exhibits share, by the planner and its calibration."""

from __future__ import annotations

from functools import cache

from dougong.config import load_config
from dougong.plan.calibration import default_calibration
from dougong.plan.chips import Chip, load_chips, set_value
from dougong.plan.layout import Layout
from dougong.plan.overlap import OverlapPolicy
from dougong.plan.precision import PRECISIONS
from dougong.plan.predict import (
    Decode,
    Prefill,
    Scenario,
    batch_within,
    decode,
    prefill,
    scenario_for,
)

TENSOR_DEGREES = (1, 2, 4, 8, 16)
SOURCE = "plan/predict.py; calibrated on v4_inference_benchmarks.csv"


def chip(name: str, **values: float) -> Chip:
    """A chip by id, with some of its values (base units) replaced."""
    found = load_chips()[name]
    for key, value in values.items():
        found = set_value(found, key, value)
    return found


def scenario(
    model: str,
    machine: Chip,
    chips: int,
    context_len: int,
    batch: int,
    *,
    precision: str | None = None,
    drafts: int = 1,
    overlap: OverlapPolicy = "waves",
) -> Scenario:
    """The planner's scenario with its usual layout."""
    return scenario_for(
        load_config(model),
        machine,
        chips,
        context_len,
        batch,
        precision=PRECISIONS[precision] if precision else None,
        drafts=drafts,
        overlap=overlap,
    )


def decode_at(one: Scenario) -> Decode:
    """A decode operating point under the default calibration."""
    return decode(one, default_calibration())


def rate(one: Scenario) -> float:
    """Output tokens per second and chip."""
    return decode_at(one).tokens_per_s_per_chip


def prefill_at(one: Scenario) -> Prefill:
    """A prompt read under the default calibration."""
    return prefill(one, default_calibration())


@cache
def best_decode(
    model: str,
    machine: str,
    chips: int,
    context_len: int,
    tpot_s: float,
    precision: str,
    overlap: OverlapPolicy,
    drafts: int,
) -> Decode:
    """The fastest decode per chip that fits and keeps to `tpot_s`, over tensor-parallel degrees."""
    found = []
    for tp in TENSOR_DEGREES:
        if chips % tp:
            continue
        one = Scenario(
            config=load_config(model),
            chip=chip(machine),
            layout=Layout(chips=chips, tp=tp),
            precision=PRECISIONS[precision],
            context_len=context_len,
            batch=1,
            drafts=drafts,
            overlap=overlap,
        )
        point = batch_within(one, default_calibration(), tpot_s)
        if point is not None:
            found.append(point)
    return max(found, key=lambda point: point.tokens_per_s_per_chip)
