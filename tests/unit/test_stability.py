"""Spikes are noticed, undone and answered; anticipatory routing with no lag is ordinary routing."""

from pathlib import Path

import pytest
import torch

from dougong.errors import TrainingError
from dougong.train.anticipatory import Anticipation, chosen_experts, imposed, scored_routers
from dougong.train.checkpoint import latest_checkpoint
from dougong.train.config import RunConfig, StabilityConfig, run_config_from_dict
from dougong.train.loop import advance
from dougong.train.progress import LOG_FILE, read_log
from dougong.train.run import Run, open_run
from dougong.train.stability import LossSpikeError, SpikeWatch
from tests.support import training

Lines = list[dict[str, float]]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return training.write_inputs(tmp_path_factory.mktemp("inputs"))


def config(inputs: Path, folder: Path, steps: int, **stability: object) -> RunConfig:
    """One phase of small, similar batches; a checkpoint every fifth step."""
    values = training.values(inputs, folder, tokens=steps * 256, lr=0.02, decay=0.0)
    phase = {"share": 1.0, "mix": {"talk": 1.0}, "max_length": 100, "batch_tokens": 256}
    values["phases"] = [phase]
    values["data"]["micro_tokens"] = 128
    values["output"]["save_every"] = 5
    return run_config_from_dict(values | {"stability": stability})


def lines(folder: Path) -> Lines:
    return [
        {k: v for k, v in line.items() if k not in ("seconds", "anticipated", "rollbacks")}
        for line in read_log(folder / LOG_FILE)
    ]


@torch.no_grad()
def make_outlier(run: Run) -> None:
    """Expert 2 of a layer writes 3,000 times too much, into every token's streams."""
    moe = run.model.layers[1].ffn
    moe.experts.w2[2] *= -3000
    moe.gate.bias[2] += 10


def test_watch_waits_for_its_window_and_starts_again_with_a_phase() -> None:
    watch = SpikeWatch(StabilityConfig(spike=5, window=4))
    for step, loss in enumerate((2.0, 9.0, 2.2, 1.8)):
        watch.take(step, 0, loss)
    # median 2.1; distances 0.1, 6.9, 0.1, 0.3, their median 0.2; 2.1 + 5 * 1.4826 * 0.2
    assert watch.limit == pytest.approx(3.5826)
    with pytest.raises(LossSpikeError) as caught:
        watch.take(4, 0, 3.6)
    assert (caught.value.step, caught.value.loss) == (4, 3.6)
    watch.take(4, 1, 30.0)
    assert watch.limit == float("inf")


def test_quiet_losses_leave_room_of_a_hundredth_each() -> None:
    watch = SpikeWatch(StabilityConfig(spike=5, window=4))
    watch.restart(0, [2.0] * 4)
    assert watch.limit == pytest.approx(2.1)


def test_watch_is_off_unless_asked_for() -> None:
    watch = SpikeWatch(StabilityConfig(window=4))
    watch.restart(0, [2.0] * 4)
    assert watch.limit == float("inf")


def test_outlier_expert_is_noticed_undone_and_followed_by_anticipation(
    inputs: Path, tmp_path: Path
) -> None:
    settings = {"spike": 6, "window": 4, "lag": 2, "period": 3}
    run = open_run(config(inputs, tmp_path, 18, **settings), quiet=True)
    while run.step < 11:
        advance(run)
    before = lines(tmp_path)
    make_outlier(run)
    advance(run)
    assert (run.step, run.rollbacks) == (10, 1)  # the checkpoint behind step 10
    assert lines(tmp_path) == before[:10]
    while not run.done:
        advance(run)
    log = read_log(tmp_path / LOG_FILE)
    assert [line["step"] for line in log] == list(range(18))
    assert [line["step"] for line in log if line["anticipated"]] == [10, 11, 12, 13]  # to 11 + 3
    assert [line["rollbacks"] for line in log] == [0] * 10 + [1] * 8
    # step 10 begins the mode, so its experts are those it would have chosen anyway
    assert lines(tmp_path)[10] == before[10]
    assert max(line["loss"] for line in log[10:]) < log[4]["loss"]


def test_run_stops_when_roll_backs_do_not_help(inputs: Path, tmp_path: Path) -> None:
    settings = {"spike": 6, "window": 4, "rollbacks": 2, "anticipate": "never"}
    run = open_run(config(inputs, tmp_path, 18, **settings), quiet=True)

    def break_down() -> None:
        while not run.done:
            if run.step == 11:
                make_outlier(run)
            advance(run)

    with pytest.raises(TrainingError, match="2 roll-backs did not help: lower schedule.lr"):
        break_down()
    assert run.rollbacks == 2
    assert latest_checkpoint(tmp_path).name == "step-000010"


def test_anticipation_without_lag_changes_no_bit(inputs: Path, tmp_path: Path) -> None:
    plain = training.trained(config(inputs, tmp_path / "plain", 4))
    same = training.trained(config(inputs, tmp_path / "same", 4, anticipate="always", lag=0))
    assert lines(tmp_path / "plain") == lines(tmp_path / "same")
    for name, tensor in plain.model.state_dict().items():
        assert torch.equal(tensor, same.model.state_dict()[name])


def test_lag_takes_the_experts_of_earlier_weights(inputs: Path, tmp_path: Path) -> None:
    run = open_run(config(inputs, tmp_path, 5, anticipate="always", lag=2), quiet=True)
    expected: list[dict[str, torch.Tensor]] = []
    for step in range(3):
        part = next(iter(run.batch(step + 2).split(128)))
        expected.append(chosen_experts(run.model, part, mtp=True))
        advance(run)
    run.anticipation.missing(3, 5)
    now = run.anticipation.state
    for name in scored_routers(run.model):
        assert torch.equal(now[f"3/0/{name}"], expected[1][name])
        assert torch.equal(now[f"4/0/{name}"], expected[2][name])
    assert not any(key.startswith("2/") for key in now), "taken indices are not kept"


def test_imposed_experts_are_used_and_forgotten(inputs: Path, tmp_path: Path) -> None:
    run: Run = open_run(config(inputs, tmp_path, 2), quiet=True)
    part = run.batch(0)
    own = chosen_experts(run.model, part, mtp=True)
    others = {name: 3 - experts_TK for name, experts_TK in own.items()}
    with imposed(run.model, others):
        forced = chosen_experts(run.model, part, mtp=True)
    assert all(torch.equal(forced[name], others[name]) for name in own)
    again = chosen_experts(run.model, part, mtp=True)
    assert all(torch.equal(again[name], own[name]) for name in own)


def test_killed_in_the_mode_a_run_goes_on_alike(inputs: Path, tmp_path: Path) -> None:
    """The indices found by earlier weights are in the checkpoint."""
    settings = config(inputs, tmp_path, 8, anticipate="always", lag=2)
    whole = open_run(run_config_from_dict(settings.to_dict() | {
        "output": settings.to_dict()["output"] | {"folder": str(tmp_path / "whole")}
    }), quiet=True)  # fmt: skip
    while not whole.done:
        advance(whole)
    run = open_run(settings, quiet=True)
    while run.step < 7:  # the last checkpoint is behind step 5
        advance(run)
    training.trained(settings)
    assert lines(tmp_path) == lines(tmp_path / "whole")


def test_outside_its_period_nothing_is_anticipated() -> None:
    anticipation = Anticipation(lag=3)
    assert anticipation.missing(0, 10) == []
    anticipation.until = 5
    assert anticipation.missing(2, 10) == [2, 3, 4]
    anticipation.until = 50
    assert anticipation.missing(8, 10) == [8, 9]
