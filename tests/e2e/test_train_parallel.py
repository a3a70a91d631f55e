"""Two processes train as one does: the same losses and weights, ==."""

import os
import subprocess
import sys
from pathlib import Path

import torch

from dougong.train.checkpoint import latest_checkpoint, load_checkpoint
from dougong.train.config import run_config_from_dict
from dougong.train.progress import LOG_FILE, read_log
from tests.support import training

STEPS = 3
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def test_two_gloo_processes_give_the_losses_of_one(tmp_path: Path) -> None:
    """Three parts a batch, so that the last round has one process idle; all losses are on."""
    inputs = training.write_inputs(tmp_path / "inputs")
    folders = tmp_path / "one", tmp_path / "two"
    configs = []
    for folder in folders:
        values = training.values(inputs, folder, STEPS)
        values["data"]["micro_tokens"] = 200
        values["stability"] = {"anticipate": "always", "lag": 1}
        configs.append(run_config_from_dict(values))
    training.trained(configs[0])
    (tmp_path / "two.toml").write_text(configs[1].to_toml())
    subprocess.run(
        [*TORCHRUN, "-m", "dougong.cli.main", "train", str(tmp_path / "two.toml")],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        check=True,
        timeout=120,
    )
    one, two = (
        [{k: v for k, v in line.items() if k != "seconds"} for line in read_log(folder / LOG_FILE)]
        for folder in folders
    )
    assert len(one) == STEPS
    assert one == two
    states = [load_checkpoint(latest_checkpoint(folder))[0] for folder in folders]
    assert set(states[0]) == set(states[1])
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert (folders[1] / "model" / "model.safetensors").is_file()
