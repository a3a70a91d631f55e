"""`dougong bench train`: steps of ours and of transformers', and what recomputation saves."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from dougong.cli import bench_train
from dougong.cli import main as entry
from dougong.config import V4Config, load_config
from dougong.errors import TrainingError
from dougong.train.speed import SYSTEMS, Stepper, Task, our_loss, their_loss
from tests.support import training


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("speed") / "config.json"
    path.write_text(json.dumps(training.MODEL))
    return str(path)


def test_speed_memory_and_recomputation_are_reported_and_recorded(
    model: str, capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["bench", "train", model, "--tokens", "64", "--steps", "1", "--no-peer", "--record"]
    assert entry.run([*words, "--threads", "1", "--json"]) == 0
    report = json.loads(capfd.readouterr().out)
    assert [row["products"] for row in report["speed"]] == ["float32", "bfloat16"]
    for row in report["speed"]:
        assert row["tokens_per_s"] == pytest.approx(2 * 64 / row["seconds"])
        used = report["step_flops"] / row["seconds"] / report["peak"][row["products"]]
        assert row["utilization"] == pytest.approx(used)
        assert (row["times_peer"], row["target"], row["met"]) == (None, None, None)
    memory = {row["recompute"]: row["step_bytes"] for row in report["recompute"]}
    assert memory["none"] > memory["tensor"] > memory["module"]
    (path,) = report["recorded"]
    names = [json.loads(line)["name"] for line in Path(path).read_text().splitlines()]
    assert "recompute.tensor.config.step_bytes" in names
    assert "train.config.2x64.t1.dougong.bfloat16.speed" in names


@pytest.mark.parametrize("system", SYSTEMS)
def test_both_systems_train_the_same_model_on_the_same_loss(model: str, system: str) -> None:
    """As many parameters; random weights, so the loss is near that of even chances."""
    task = Task(system, model, 2, 64, "float32", 1)
    module, loss_of = {"dougong": our_loss, "transformers": their_loss}[system](task)
    ids = torch.randint(2, training.VOCAB_SIZE, (2, 64), generator=torch.Generator().manual_seed(0))
    loss = loss_of(ids)
    # logits of unit scale or less move it by up to half of their variance
    assert loss.item() == pytest.approx(math.log(training.VOCAB_SIZE), abs=0.8)
    loss.backward()
    ours = our_loss(task)[0]
    mtp = sum(p.numel() for name, p in ours.named_parameters() if name.startswith("mtp."))
    whole = sum(p.numel() for p in ours.parameters()) - mtp
    assert sum(p.numel() for p in module.parameters()) in (whole, whole + mtp)


def test_a_system_that_fails_says_why() -> None:
    said = pytest.raises(TrainingError, match="dougong makes no step: .*v3 is no V4 model")
    with Stepper(Task("dougong", "v3", 1, 16, "float32", 1)) as stepper, said:
        stepper.step()


def test_work_of_a_step_is_three_forward_passes_by_hand() -> None:
    config = load_config("m97")
    assert isinstance(config, V4Config)
    # 36.4 M weights a token without the embedding (measured baselines, section 4), indexers
    # among them, which do not run; 6 FLOP each; attention comes on top
    weights = 6 * 36.4e6 * 2 * 512
    assert 0.95 * weights < bench_train.step_flops(config, 2, 512) < 1.15 * weights
