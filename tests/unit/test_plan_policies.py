"""Recomputation, disk strategies, speculation, price, energy: figures of infrastructure.md."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from dougong.config import load_config
from dougong.errors import InputError
from dougong.plan.chips import load_chips
from dougong.plan.cost import energy, joules_per_token, price, usd_per_mtoken
from dougong.plan.prefix import (
    conversation_hit_rate,
    disk_cost,
    replay_tokens,
    window_to_compressed,
)
from dougong.plan.speculation import accepted_drafts, tokens_per_step
from dougong.plan.training import (
    RECOMPUTE_POLICIES,
    activation_bytes,
    mhc_block,
    training_step,
)

FLASH, PRO = load_config("v4-flash"), load_config("v4-pro")
CHIPS = load_chips()


def test_activation_bytes_equal_section_1_7() -> None:
    kilobytes = [round(activation_bytes(PRO, policy) / 1e3) for policy in RECOMPUTE_POLICIES]
    assert kilobytes == [393, 158, 57]


def test_mhc_recompute_blocks_and_their_savings() -> None:
    for sublayers, block, saving in ((60, 6, 4.7), (86, 8, 5.6), (122, 9, 6.7)):
        assert mhc_block(sublayers, 4) == block
        kept = 4 * -(-sublayers // block) + 6 * block
        assert round(6 * sublayers / kept, 1) == saving
    with pytest.raises(InputError, match="at least 1"):
        mhc_block(0, 4)


def test_policies_order_memory_down_and_recomputation_up() -> None:
    steps = [
        training_step(PRO, CHIPS["huawei_950dt"], 256, 4096, recompute=policy)
        for policy in RECOMPUTE_POLICIES
    ]
    none, tensor, module = steps
    assert none.memory_bytes > tensor.memory_bytes > module.memory_bytes
    assert none.seconds < tensor.seconds < module.seconds
    assert none.recompute_flops == tensor.recompute_flops == 0 < module.recompute_flops
    # a whole module again: dispatch and combine are repeated, 1.4 to 1.5 times the bytes (1.7)
    assert 1.4 <= module.link_bytes / none.link_bytes <= 1.5
    assert tensor.link_bytes == none.link_bytes
    # tensor recomputation stays inside mHC's 6.7 % of wall time
    assert tensor.compute_s / none.compute_s == pytest.approx(1.067, abs=1e-9)


@pytest.mark.parametrize("chip", ["nvidia_h20", "nvidia_h800_sxm", "huawei_950dt", "huawei_910c"])
def test_overlap_never_costs_time_and_never_changes_bytes(chip: str) -> None:
    for recompute in RECOMPUTE_POLICIES:
        naive = training_step(PRO, CHIPS[chip], 64, 4096, recompute=recompute, overlap="none")
        for overlap in ("two_stage", "waves"):
            step = training_step(PRO, CHIPS[chip], 64, 4096, recompute=recompute, overlap=overlap)  # type: ignore[arg-type]
            assert step.seconds <= naive.seconds
            assert step.memory_bytes == naive.memory_bytes
            assert step.link_bytes == naive.link_bytes
            assert 0 <= step.exposed_link_s <= step.link_s


def test_unknown_policy_is_refused() -> None:
    with pytest.raises(InputError, match="recompute policy 'half'"):
        activation_bytes(PRO, "half")  # type: ignore[arg-type]


def test_window_entries_are_eight_times_the_compressed_ones() -> None:
    assert round(window_to_compressed(PRO), 2) == 7.88
    assert round(window_to_compressed(FLASH), 2) == 7.95


def test_replay_lengths_of_the_zero_strategy() -> None:
    assert (replay_tokens(PRO), replay_tokens(FLASH)) == (7808, 5504)
    assert (replay_tokens(PRO, exact=True), replay_tokens(FLASH, exact=True)) == (7748, 5462)


def test_disk_strategies_trade_writes_for_recomputation() -> None:
    n = 100_000
    full, periodic, zero = (disk_cost(PRO, n, s, 4096) for s in ("full", "periodic", "zero"))  # type: ignore[arg-type]
    assert full.window_write_bytes == n * 61 * 584  # 35.6 kB a token
    assert periodic.window_write_bytes == pytest.approx(full.window_write_bytes * 128 / 4096)
    assert zero.window_write_bytes == zero.window_read_bytes == 0
    assert full.window_read_bytes == periodic.window_read_bytes == 128 * 61 * 584
    assert (full.recomputed_tokens, periodic.recomputed_tokens) == (0, 2048)
    assert zero.recomputed_tokens == 7808
    assert len({c.compressed_write_bytes for c in (full, periodic, zero)}) == 1
    with pytest.raises(InputError, match="a multiple of 128"):
        disk_cost(PRO, n, "periodic", 100)
    with pytest.raises(InputError, match="disk strategy 'some'"):
        disk_cost(PRO, n, "some")  # type: ignore[arg-type]


def test_conversation_hit_rate_counts_by_hand() -> None:
    # prompts 100+10, 100+10+20+10, 100+60+10: seen 100, 130, 160 of 110, 140, 170
    assert conversation_hit_rate(3, 100, 10, 20) == pytest.approx(390 / 420)
    assert conversation_hit_rate(1, 0, 10, 5) == 0


def test_accepted_drafts_equal_the_recipe() -> None:
    assert accepted_drafts(0) == 0
    assert accepted_drafts(1) == pytest.approx(0.70)
    assert accepted_drafts(3) == pytest.approx(1.44)
    assert tokens_per_step(3) == pytest.approx(2.44)
    for drafts, first in product(range(1, 7), (0.3, 0.9)):
        assert accepted_drafts(drafts, first) < accepted_drafts(drafts + 1, first) < drafts + 1
    with pytest.raises(InputError, match="0 to 7 are modelled"):
        accepted_drafts(8)
    with pytest.raises(InputError, match="a share from 0 to 1"):
        accepted_drafts(1, 1.5)


def test_price_of_the_worked_example() -> None:
    # hardware.md 9: 950DT at 0.8 USD/h: 5,831 tokens/s is 0.038, 1,727 is 0.129
    assert round(usd_per_mtoken(5831, 0.8), 3) == 0.038
    assert round(usd_per_mtoken(1727, 0.8), 3) == 0.129
    assert usd_per_mtoken(1000, 1.0, 0.5) == 2 * usd_per_mtoken(1000, 1.0)
    assert joules_per_token(100, 400) == 4
    with pytest.raises(InputError, match="utilisation is 0"):
        usd_per_mtoken(1000, 1.0, 0)


def test_price_and_energy_are_empty_without_published_figures() -> None:
    silent = CHIPS["huawei_950dt"]
    assert price(silent, 1000.0).mark == energy(silent, 1000.0).mark == "empty"
    assert "--set chip.rental" in price(silent, 1000.0).formula
    told = replace(silent, rental=0.8, tdp=600.0)
    assert price(told, 5831.0).value == pytest.approx(0.0381, abs=1e-4)
    assert energy(told, 600.0).value == 1.0
