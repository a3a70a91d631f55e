"""A run killed at any time goes on with exactly the losses it would have had."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from dougong.errors import ConfigError, TrainingError
from dougong.train.checkpoint import latest_checkpoint, load_checkpoint
from dougong.train.loop import advance, train_step
from dougong.train.progress import CURVE_FILE, LOG_FILE, read_log
from dougong.train.run import open_run
from tests.support import training

STEPS = 8
PATIENCE_S = 120


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return training.write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def unbroken(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("unbroken")
    training.trained(training.run_config(inputs, folder, steps=STEPS))
    return folder


def figures(folder: Path) -> list[dict[str, float]]:
    """The log without what the clock decides."""
    lines = read_log(folder / LOG_FILE)
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def assert_equal_states(folder: Path, other: Path) -> None:
    """The last checkpoints hold the same bits: weights, optimizer, average, random state."""
    states = [load_checkpoint(latest_checkpoint(path))[0] for path in (folder, other)]
    assert set(states[0]) == set(states[1])
    parts = {name.partition("/")[0] for name in states[0]}
    assert parts == {"model", "optimizer", "average", "random_state"}
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def write_toml(inputs: Path, folder: Path) -> Path:
    path = folder.with_suffix(".toml")
    path.write_text(training.run_config(inputs, folder, steps=STEPS).to_toml())
    return path


def wait_for_steps(process: subprocess.Popen[bytes], log: Path, count: int) -> None:
    """Returns when `count` steps are in the log."""
    give_up = time.monotonic() + PATIENCE_S
    while not log.exists() or log.read_text().count("\n") < count:
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < give_up
        time.sleep(0.01)


def test_killed_run_goes_on_with_identical_losses(
    inputs: Path, unbroken: Path, tmp_path: Path
) -> None:
    """SIGKILL in the middle, behind the first checkpoint; then the same command again."""
    folder = tmp_path / "killed"
    command = [sys.executable, "-m", "dougong.cli.main", "train", str(write_toml(inputs, folder))]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, **quiet)
    wait_for_steps(process, folder / LOG_FILE, 4)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    done_before = latest_checkpoint(folder)
    assert done_before is not None
    done = subprocess.run([*command, "--json"], env=environment, capture_output=True, check=True)
    assert figures(folder) == figures(unbroken)
    assert_equal_states(folder, unbroken)
    report = json.loads(done.stdout)
    assert report["steps"] == STEPS
    assert report["loss"] == figures(unbroken)[-1]["loss"]
    assert (Path(report["model"]) / "model.safetensors").is_file()


def test_kill_between_checkpoints_repeats_the_lost_steps(
    inputs: Path, unbroken: Path, tmp_path: Path
) -> None:
    config = training.run_config(inputs, tmp_path, steps=STEPS)
    run = open_run(config, quiet=True)
    for count in range(1, 6):
        line, seconds = train_step(run)
        run.progress.record(line, 0, seconds, show=False)
        if count == 3:
            run.save()
    (tmp_path / ".partial-000006").mkdir()  # as a kill during the writing of a checkpoint leaves it
    with (tmp_path / LOG_FILE).open("a") as log:
        log.write('{"step": 5, "lo')  # and during the writing of the log
    training.trained(config)
    assert figures(tmp_path) == figures(unbroken)
    assert_equal_states(tmp_path, unbroken)


def test_loss_falls(unbroken: Path) -> None:
    losses = [line["loss"] for line in figures(unbroken)]
    # a uniform guess over 512 ids costs ln 512 = 6.24; eight small steps leave it
    assert losses[0] > 6
    assert losses[-1] < losses[0] - 0.3


def test_another_seed_gives_other_losses(inputs: Path, unbroken: Path, tmp_path: Path) -> None:
    values = training.values(inputs, tmp_path, steps=2)
    values["data"]["seed"] = 2
    training.trained(training.run_config_from_dict(values))
    assert figures(tmp_path)[0]["loss"] != figures(unbroken)[0]["loss"]


def test_run_leaves_few_checkpoints_and_a_curve(unbroken: Path) -> None:
    assert [path.name for path in sorted(unbroken.glob("step-*"))] == ["step-000006", "step-000008"]
    assert (unbroken / CURVE_FILE).read_bytes().startswith(b"\x89PNG")
    assert not list(unbroken.glob(".partial*"))


def test_another_model_in_the_folder_is_refused(
    inputs: Path, unbroken: Path, tmp_path: Path
) -> None:
    wider = tmp_path / "config.json"
    wider.write_text(json.dumps(training.MODEL | {"moe_intermediate_size": 64}))
    values = training.values(inputs, unbroken, steps=STEPS) | {"model": str(wider)}
    with pytest.raises(TrainingError, match="holds another model's weights"):
        open_run(training.run_config_from_dict(values), quiet=True)


def test_a_run_begins_with_the_newest_weights_of_another(
    inputs: Path, unbroken: Path, tmp_path: Path
) -> None:
    values = training.values(inputs, tmp_path) | {"start": str(unbroken)}
    run = open_run(training.run_config_from_dict(values), quiet=True)
    before, _ = load_checkpoint(latest_checkpoint(unbroken))
    assert run.step == 0
    assert not run.optimizer.state
    for name, tensor in run.model.state_dict().items():
        assert torch.equal(tensor, before[f"model/{name}"]), name


def test_a_run_that_should_begin_with_another_names_what_is_missing(
    inputs: Path, unbroken: Path, tmp_path: Path
) -> None:
    values = training.values(inputs, tmp_path / "run") | {"start": str(tmp_path / "nothing")}
    with pytest.raises(ConfigError, match="holds no checkpoint; give a run's folder"):
        open_run(training.run_config_from_dict(values), quiet=True)
    wider = tmp_path / "config.json"
    wider.write_text(json.dumps(training.MODEL | {"moe_intermediate_size": 64}))
    values |= {"model": str(wider), "start": str(unbroken)}
    with pytest.raises(TrainingError, match="holds another model's weights"):
        open_run(training.run_config_from_dict(values), quiet=True)


def test_loss_that_is_not_finite_stops_the_run(inputs: Path, tmp_path: Path) -> None:
    run = open_run(training.run_config(inputs, tmp_path, steps=2), quiet=True)
    run.model.head.weight.data[0, 0] = float("nan")
    with pytest.raises(TrainingError, match=r"step 0: the loss is nan; the last checkpoint"):
        train_step(run)
    assert not run.optimizer.state, "no step was taken"


def test_gradient_that_is_not_finite_stops_the_run(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finite loss may have an infinite gradient; the weights must not see it."""
    run = open_run(training.run_config(inputs, tmp_path, steps=2), quiet=True)
    run.model.norm.weight.register_hook(lambda gradient: gradient * float("inf"))
    before = run.model.norm.weight.detach().clone()
    with pytest.raises(TrainingError, match=r"step 0: the gradient's norm is (nan|inf); the last"):
        train_step(run)
    assert torch.equal(run.model.norm.weight, before)


@contextmanager
def files_of_at_most(num_bytes: int) -> Iterator[None]:
    """The kernel refuses to make a file of this process longer than that."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    ("limit", "message"),
    [(100_000, "the checkpoint could not be written .*File too large"), (300, "log.jsonl: cannot")],
)
def test_full_disk_stops_the_run_and_keeps_the_older_checkpoint(
    inputs: Path, unbroken: Path, tmp_path: Path, limit: int, message: str
) -> None:
    """A checkpoint has 2 MB, a line of the log about 300 bytes. With room again, it goes on."""
    config = training.run_config(inputs, tmp_path, steps=STEPS)
    run = open_run(config, quiet=True)
    while run.step < 3:
        advance(run)
    older = (latest_checkpoint(tmp_path) / "state.safetensors").read_bytes()

    def go_on() -> None:
        while not run.done:
            advance(run)

    with files_of_at_most(limit), pytest.raises(TrainingError, match=message):
        go_on()
    assert (latest_checkpoint(tmp_path) / "state.safetensors").read_bytes() == older
    assert not list(tmp_path.glob(".partial*"))
    training.trained(config)
    assert figures(tmp_path) == figures(unbroken)
