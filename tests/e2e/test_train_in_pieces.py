"""A run in pieces gives the model of an unbroken one; the script for a GPU, at tiny size."""

import importlib.util
import json
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from support import training

from dougong.errors import TrainingError
from dougong.model.loading import load_model
from dougong.train import pieces
from dougong.train.config import RunConfig
from dougong.train.evaluation.card import CARD, RESULTS
from dougong.train.evaluation.suites import weights_sha256
from dougong.train.progress import LOG_FILE, read_log

STEPS = 4
SHARD_BYTES = 100_000
SCRIPT = Path(__file__).parents[2] / "tools" / "train_on_gpu.py"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return training.write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture
def config(inputs: Path, tmp_path: Path) -> RunConfig:
    return training.run_config(inputs, tmp_path / "run", STEPS)


def test_the_budget_is_what_every_phase_reads_in_its_share_of_the_time(config: RunConfig) -> None:
    # half of the tokens at 100/s and half at 300/s: 0.5 / 100 + 0.5 / 300 = 1 / 150 s a token
    assert pieces.tokens_for(config, [100.0, 300.0], 60) == 9000
    slow, fast = (replace(phase, share=share) for phase, share in
                  zip(config.phases, (0.25, 0.75), strict=True))  # fmt: skip
    # 0.25 / 100 + 0.75 / 300 = 1 / 200
    assert pieces.tokens_for(replace(config, phases=(slow, fast)), [100.0, 300.0], 60) == 12_000


def test_the_budget_is_chosen_once(config: RunConfig) -> None:
    with pytest.raises(TrainingError, match=r"has no speed.json: measure the speed first"):
        pieces.choose_budget(config, 60)
    speeds = pieces.measure_speed(config, 0.0)
    assert len(speeds) == len(config.phases)
    assert min(speeds) > 0
    chosen = pieces.choose_budget(config, 60)
    assert chosen.schedule.tokens == pieces.tokens_for(config, speeds, 60)
    assert replace(chosen, schedule=config.schedule) == config
    assert pieces.choose_budget(config, 600) == chosen


def test_a_run_in_pieces_has_the_losses_and_weights_of_an_unbroken_one(
    inputs: Path, config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = training.run_config(inputs, tmp_path / "whole", STEPS)
    training.trained(whole)
    with pytest.raises(TrainingError, match=f"0 of {STEPS} steps; train it first"):
        pieces.export(config)
    done = []
    while not done or not done[-1]:
        monkeypatch.setattr(pieces, "time", SimpleNamespace(monotonic=count().__next__))
        done.append(pieces.train_for(config, 1.5))  # one step by this clock
    assert len(done) == STEPS
    one, two = (
        [line["loss"] for line in read_log(Path(c.output.folder) / LOG_FILE)]
        for c in (config, whole)
    )
    assert one == two
    split, single = pieces.export(config, SHARD_BYTES), pieces.export(whole)
    files = list(split.glob("*.safetensors"))
    assert len(files) > 1
    assert max(path.stat().st_size for path in files) < 2 * SHARD_BYTES  # and one large tensor
    expected = load_model(single).state_dict()
    for name, tensor in load_model(split).state_dict().items():
        assert tensor.equal(expected[name]), name


def test_the_script_runs_every_piece(inputs: Path, config: RunConfig, tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("train_on_gpu", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    plan = tmp_path / "tiny.toml"
    plan.write_text(config.to_toml())
    options = [f"--config={plan}", f"--folder={tmp_path / 'run'}", "--minutes=0"]

    def said(piece: str, *more: str) -> str:
        result = CliRunner().invoke(script.main, [piece, *options, *more], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    assert "tokens/s" in said("speed", "--speed-seconds=0")
    assert "call it again" in said("train", "--piece-minutes=0")
    assert "done" in said("train")
    said("finish", f"--shard-bytes={SHARD_BYTES}", "--evaluate=--quick --suite measures")
    model = tmp_path / "run" / "model"
    results = json.loads((model / RESULTS).read_text())
    assert results["model"]["weights_sha256"] == weights_sha256(model)
    assert "| measures | " in (model / CARD).read_text()
