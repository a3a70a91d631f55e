"""The speeds and rooms that a fleet's replicas take from the planner."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import replace

from dougong.config import V4Config
from dougong.errors import InputError
from dougong.plan.calibration import Calibration
from dougong.plan.fleet import Demand, Replica
from dougong.plan.kv import kv_bytes
from dougong.plan.layout import Layout, largest_batch
from dougong.plan.predict import Scenario, central_tpot, prefill
from dougong.plan.prefix import DiskStrategy, disk_cost

HOST_LINK = 50e9  # B/s from host memory: PCIe 5.0 x16 at about 80 %
DISK_READ = 6e9  # B/s from one NVMe drive


def replica_of(
    scenario: Scenario,
    calibration: Calibration,
    demand: Demand,
    *,
    host_bytes: float,
    disk_bytes: float,
    strategy: DiskStrategy,
    prefill_chips: int = 0,
) -> Replica:
    """A replica with the scenario's chips for decode and `prefill_chips` more that read prompts.

    Without prefill chips the decode chips read prompts too, one prompt per data-parallel group.
    Step times are computed on a grid of batches and interpolated.
    """
    config, precision = scenario.config, scenario.precision
    most = largest_batch(config, scenario.layout, scenario.chip, precision, scenario.context_len)
    if most < 1:
        raise InputError(
            f"not even one request of {scenario.context_len} tokens fits on "
            f"{scenario.layout.chips} x {scenario.chip.name}; use more chips or a smaller format"
        )
    layout = scenario.layout
    reading = layout if not prefill_chips else Layout(chips=prefill_chips, tp=layout.tp)
    kv_room = most * float(kv_bytes(config, scenario.context_len, precision.kv_format))
    return Replica(
        prefill_s=_prefill_table(replace(scenario, layout=reading), calibration, demand),
        tpot_s=_tpot_table(scenario, calibration, most),
        kv_bytes=lambda tokens: float(kv_bytes(config, tokens, precision.kv_format)),
        load_s={
            "host": lambda tokens: kv_bytes(config, tokens, precision.kv_format) / HOST_LINK,
            "disk": _disk_load(scenario, calibration, strategy),
        },
        room={"device": kv_room / 2, "host": host_bytes, "disk": disk_bytes},
        max_batch=max(1, most // 2),  # half of the KV room serves, half keeps prefixes warm
        prefill_slots=reading.dp,
        shared=not prefill_chips,
    )


def _interpolated(xs: list[float], ys: list[float]) -> Callable[[float], float]:
    def at(x: float) -> float:
        if x <= xs[0]:
            return ys[0]
        if x >= xs[-1]:
            return ys[-1]
        i = bisect_left(xs, x)
        share = (x - xs[i - 1]) / (xs[i] - xs[i - 1])
        return ys[i - 1] + share * (ys[i] - ys[i - 1])

    return at


def _tpot_table(scenario: Scenario, calibration: Calibration, most: int) -> Callable[[int], float]:
    factors = calibration.factors(scenario.chip)
    grid = sorted({min(most, 1 << power) for power in range(most.bit_length() + 1)})
    times = [central_tpot(replace(scenario, batch=batch), factors) for batch in grid]
    return _interpolated([float(batch) for batch in grid], times)


def _prefill_table(
    scenario: Scenario, calibration: Calibration, demand: Demand
) -> Callable[[int, int], float]:
    """Seconds for fresh tokens at the mean context of the traffic, linear in between."""
    typical = demand.system_len + demand.turns * (demand.user_len + demand.output_len)
    cached = int(min(typical, scenario.config.max_position_embeddings // 2))
    grid = [64, 256, 1024, 4096, 16384, 65536]
    limit = scenario.config.max_position_embeddings - cached
    grid = [tokens for tokens in grid if tokens < limit] or [1]
    times = [
        prefill(replace(scenario, context_len=cached + tokens, batch=1), calibration, cached).ttft_s
        for tokens in grid
    ]
    table = _interpolated([float(tokens) for tokens in grid], times)
    last, slope = grid[-1], times[-1] / grid[-1]
    return lambda fresh, _: table(fresh) if fresh <= last else fresh * slope


def _disk_load(
    scenario: Scenario, calibration: Calibration, strategy: DiskStrategy
) -> Callable[[int], float]:
    """Seconds to read a context from disk and to compute again what the strategy did not store."""
    config = scenario.config
    if not isinstance(config, V4Config):
        return lambda tokens: kv_bytes(config, tokens, scenario.precision.kv_format) / DISK_READ

    def load(tokens: int) -> float:
        cost = disk_cost(config, max(1, tokens), strategy)
        read = cost.compressed_read_bytes + cost.window_read_bytes
        again = math.ceil(cost.recomputed_tokens)
        if not again:
            return read / DISK_READ
        reading = prefill(replace(scenario, context_len=again, batch=1), calibration)
        return read / DISK_READ + reading.ttft_s

    return load
