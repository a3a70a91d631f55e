"""Two processes train as one does: the same losses and weights, ==."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import torch

from dougong.train.checkpoint import latest_checkpoint, load_checkpoint
from dougong.train.config import run_config_from_dict
from dougong.train.progress import LOG_FILE, read_log
from tests.support import training

STEPS = 3
PATIENCE_S = 120


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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
    # what torchrun puts into the environment, without a third process that imports torch
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "dougong.cli.main", "train", str(tmp_path / "two.toml")],
            env=os.environ | group | {"RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, errors.decode()
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
