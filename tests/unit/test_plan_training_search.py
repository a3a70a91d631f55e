"""Training under every pair of policies: the front, the choice, and a published training rate."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dougong.config import load_config
from dougong.errors import InputError
from dougong.plan.chips import load_chips
from dougong.plan.training_search import TrainingRun, fastest, training_front, training_runs

PRO, CHIPS = load_config("v4-pro"), load_chips()


def runs_on(name: str, tokens: int = 4096, count: int = 512) -> list[TrainingRun]:
    runs, refused = training_runs(PRO, [CHIPS[name]], [count], tokens, 4096)
    assert refused == {}
    return runs


def test_every_pair_of_policies_is_computed_once() -> None:
    pairs = {(run.step.recompute, run.step.overlap) for run in runs_on("huawei_950dt")}
    recompute, overlap = ("none", "tensor", "module"), ("none", "two_stage", "waves")
    assert pairs == {(r, o) for r in recompute for o in overlap}


def test_recomputation_is_chosen_only_where_memory_asks_for_it() -> None:
    # 950DT: 129.6 GB of 144 for 37.5 GB of state; Pro keeps 61 x 393, 158, 57 kB a token (1.7)
    room = 0.9 * 144e9 - runs_on("huawei_950dt")[0].step.state_bytes
    for recompute, kilobytes in (("none", 393), ("tensor", 158), ("module", 57)):
        most = {
            run.most_tokens for run in runs_on("huawei_950dt") if run.step.recompute == recompute
        }
        assert len(most) == 1
        assert most.pop() == pytest.approx(room / (61 * kilobytes * 1e3), rel=0.01)
    for tokens, chosen in ((2048, "none"), (4096, "tensor"), (16384, "module")):
        best = fastest(runs_on("huawei_950dt", tokens))
        assert best is not None
        assert best.step.recompute == chosen
    assert fastest(runs_on("huawei_950dt", 32768)) is None


def test_the_front_holds_exactly_the_runs_that_no_other_beats() -> None:
    runs = runs_on("nvidia_h800_sxm", 2048) + runs_on("nvidia_b200_sxm", 2048)
    front = training_front(runs)
    assert len({run.step.recompute for run in front}) > 1
    for run in (one for one in runs if one.fits):
        beaten = any(
            other.step.memory_bytes <= run.step.memory_bytes
            and other.step.tokens_per_s >= run.step.tokens_per_s
            and (other.step.memory_bytes, other.step.tokens_per_s)
            != (run.step.memory_bytes, run.step.tokens_per_s)
            for other in runs
            if other.fits
        )
        same = [f for f in front if f.step.memory_bytes == run.step.memory_bytes]
        assert beaten or any(f.step.tokens_per_s == run.step.tokens_per_s for f in same)
        assert not (beaten and run in front)


def test_the_published_rate_of_v3_lies_between_no_overlap_and_a_hidden_link() -> None:
    """V3's report: 180,000 H800 hours per 10^12 tokens on 2,048 chips, 1,543 tokens/s a chip. Its
    node-limited routing sends less over InfiniBand than ours, DualPipe hides what is left."""
    published = 1e12 / (180e3 * 3600)
    runs, _ = training_runs(load_config("v3"), [CHIPS["nvidia_h800_sxm"]], [2048], 4096, 4096)
    bare = next(r for r in runs if (r.step.recompute, r.step.overlap) == ("tensor", "none"))
    assert bare.step.tokens_per_s < published < bare.step.tokens / bare.step.compute_s


def test_chips_without_a_figure_or_a_link_are_named() -> None:
    silent, alone = CHIPS["metax_c500"], replace(CHIPS["nvidia_h20"], link=0.0, scaleout=0.0)
    runs, refused = training_runs(PRO, [silent, alone], [8], 1024, 4096)
    assert runs == []
    assert "--set chip.link" in refused["metax_c500"]
    assert "nothing joins its chips" in refused["nvidia_h20"]
    with pytest.raises(InputError, match="longer than the model's 1048576 tokens"):
        training_runs(PRO, [CHIPS["nvidia_h20"]], [8], 1024, 2**21)


def test_price_follows_the_rental() -> None:
    run = runs_on("nvidia_h20")[0]
    assert run.usd_per_mtoken == pytest.approx(
        (CHIPS["nvidia_h20"].rental or 0) / 3600 / run.step.tokens_per_s * 1e6
    )
    assert replace(run, chip=replace(run.chip, rental=None)).usd_per_mtoken is None
