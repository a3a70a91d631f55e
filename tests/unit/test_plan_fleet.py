"""The fleet simulation against queueing theory and by conservation."""

from __future__ import annotations

import math
from statistics import fmean

import pytest

from dougong.config import load_config
from dougong.errors import InputError
from dougong.plan.calibration import default_calibration
from dougong.plan.chips import load_chips
from dougong.plan.fleet import Demand, Replica, Tier, simulate
from dougong.plan.fleet_speeds import replica_of
from dougong.plan.predict import scenario_for

GB = 1e9


def replica(prefill_s: float = 0.05, device_gb: float = 100.0, **changes: object) -> Replica:
    """A replica with constant prefill time and 10 ms per token; contexts take 1 kB a token."""
    values: dict[str, object] = {
        "prefill_s": lambda fresh, cached: prefill_s,
        "tpot_s": lambda batch: 0.01,
        "kv_bytes": lambda tokens: 1000.0 * tokens,
        "load_s": {"host": lambda tokens: 0.001, "disk": lambda tokens: 0.1},
        "room": {"device": device_gb * GB, "host": 0.0, "disk": 0.0},
        "max_batch": 10_000,
    }
    return Replica(**(values | changes))  # type: ignore[arg-type]


def test_waiting_time_equals_the_theory_of_a_queue_with_constant_service() -> None:
    """M/D/1: mean wait = rho s / (2 (1 - rho)) for service s and load rho (Pollaczek-Khinchine)."""
    demand = Demand(conversations_per_s=12.0, turns=1.0, output_len=1)
    result = simulate(demand, replica(prefill_s=0.05), 1, 4000.0, seed=1)
    load = 12.0 * 0.05
    expected = load * 0.05 / (2 * (1 - load))
    waits = [one.ttft_s - 0.05 for one in result.served]
    # about 38,000 correlated samples; 5 % is over three standard errors
    assert fmean(waits) == pytest.approx(expected, rel=0.05)
    assert result.prefill_busy == pytest.approx(load, rel=0.03)


def test_throughput_follows_the_traffic_when_there_is_room() -> None:
    demand = Demand(conversations_per_s=4.0, turns=3.0, pause_s=5.0, output_len=200)
    result = simulate(demand, replica(prefill_s=0.01), 2, 2000.0)
    rate = len(result.served) / result.measured_s
    assert rate == pytest.approx(demand.requests_per_s, rel=0.05)
    assert all(one.first_token_s >= one.arrived_s for one in result.served)
    assert all(one.tpot_s == pytest.approx(0.01) for one in result.served if one.output_len > 1)


def test_equal_seeds_give_equal_traffic_and_other_seeds_do_not() -> None:
    demand = Demand(conversations_per_s=2.0)
    first, again, other = (simulate(demand, replica(), 2, 200.0, seed) for seed in (3, 3, 4))
    assert first == again
    assert first.served != other.served


def test_conversations_hit_the_device_and_reuse_their_whole_context() -> None:
    demand = Demand(conversations_per_s=1.0, turns=4.0, pause_s=1.0, output_len=50)
    warm = simulate(demand, replica(), 1, 1000.0)
    cold = simulate(demand, replica(device_gb=0.0), 1, 1000.0)
    shares = warm.tier_shares()
    # every turn but the first finds its conversation: 3 of 4 with a mean of 4 turns
    assert shares["device"] == pytest.approx(0.75, abs=0.04)
    assert shares["host"] == shares["disk"] == 0
    assert cold.tier_shares()["miss"] == 1
    assert warm.hit_rate > cold.hit_rate > 0  # the system text is warm everywhere


def test_small_device_memory_pushes_contexts_to_host_and_disk() -> None:
    demand = Demand(conversations_per_s=2.0, turns=4.0, pause_s=20.0)
    rooms = {"device": 0.2 * GB, "host": 0.2 * GB, "disk": 100 * GB}
    shares = simulate(demand, replica(room=rooms), 1, 600.0).tier_shares()
    assert min(shares["device"], shares["host"], shares["disk"]) > 0.01
    assert sum(shares.values()) == pytest.approx(1)


def test_chips_that_read_prompts_too_decode_slower() -> None:
    demand = Demand(conversations_per_s=8.0, turns=1.0, output_len=100)
    apart = simulate(demand, replica(), 1, 300.0)
    together = simulate(demand, replica(shared=True), 1, 300.0)
    assert together.quantile(lambda one: one.tpot_s, 0.5) > apart.quantile(
        lambda one: one.tpot_s, 0.5
    )


def test_a_tier_evicts_the_least_recently_used_and_counts_its_bytes() -> None:
    tier = Tier(room=100.0)
    assert tier.put(1, 10, 40.0) == []
    assert tier.put(2, 20, 40.0) == []
    assert tier.take(1) == 10
    assert tier.put(1, 11, 40.0) == []
    assert tier.put(3, 30, 40.0) == [(2, 20, 40.0)]
    assert tier.used == 80.0
    assert tier.put(4, 99, 101.0) == [(4, 99, 101.0)]
    assert tier.take(4) is None


def test_a_planned_replica_serves_and_more_replicas_wait_less() -> None:
    config, chip = load_config("v4-flash"), load_chips()["huawei_950dt"]
    demand = Demand(conversations_per_s=12.0, turns=3.0, user_len=4096, output_len=64)
    planned = replica_of(
        scenario_for(config, chip, 8, 32768, 8), default_calibration(), demand,
        host_bytes=100 * GB, disk_bytes=1000 * GB, strategy="periodic",
    )  # fmt: skip
    one, two = (simulate(demand, planned, count, 60.0) for count in (1, 2))
    assert one.served
    p90 = [result.quantile(lambda s: s.ttft_s, 0.9) for result in (one, two)]
    assert p90[0] > p90[1] > 0
    assert planned.tpot_s(64) > planned.tpot_s(1)
    assert planned.load_s["disk"](50_000) > planned.load_s["host"](50_000)


def test_impossible_fleets_are_refused() -> None:
    config, chip = load_config("v4-pro"), load_chips()["nvidia_rtx5090"]
    demand = Demand(conversations_per_s=1.0)
    with pytest.raises(InputError, match="not even one request"):
        replica_of(
            scenario_for(config, chip, 1, 1024, 1), default_calibration(), demand,
            host_bytes=0, disk_bytes=0, strategy="zero",
        )  # fmt: skip
    with pytest.raises(InputError, match="at least one replica"):
        simulate(demand, replica(), 0, 10.0)
    with pytest.raises(InputError, match="at most 300,000 are"):
        simulate(Demand(conversations_per_s=1e9), replica(), 1, 10.0)
    with pytest.raises(InputError, match="a rate above 0"):
        Demand(conversations_per_s=0.0)
    with pytest.raises(InputError, match="at least one token"):
        Demand(conversations_per_s=1.0, output_len=0)


def test_no_finished_request_is_said_and_not_divided_by() -> None:
    result = simulate(Demand(conversations_per_s=1e-6), replica(), 1, 1.0)
    assert math.isnan(result.quantile(lambda one: one.ttft_s, 0.5))
    assert result.within(1, 1) == result.hit_rate == result.output_tokens_per_s == 0
