"""Backend cpu under several Python threads and in a forked child."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from support.tiny import write_tiny_checkpoint
from torch import Tensor

from dougong.kernels.cpu.products import linear
from dougong.model.loading import load_model
from dougong.model.transformer import Transformer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("cpu") / "tiny")


def decode(model: Transformer, seed: int) -> Tensor:
    """Logits of 40 tokens taken one by one."""
    ids = torch.randint(0, 512, (40,), generator=torch.Generator().manual_seed(seed))
    state, rows = model.new_state(), []
    with torch.inference_mode():
        for i in range(40):
            rows.append(model.logits(model(ids[i : i + 1], [1], [state])))
    return torch.cat(rows)


def test_several_python_threads_get_the_bits_of_one(folder: Path) -> None:
    model = load_model(folder, backend="cpu", fallback=False)
    alone = [decode(model, seed) for seed in range(6)]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(lambda seed: decode(model, seed), range(6)))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


def test_snapshots_and_rollbacks_survive_recorded_steps(folder: Path) -> None:
    model = load_model(folder, backend="cpu", fallback=False)
    ids = torch.arange(150) * 7 % 512
    with torch.inference_mode():
        whole = model(ids, [150])
        state = model.new_state()
        for i in range(140):
            model(ids[i : i + 1], [1], [state])
        snapshot = state.snapshot()
        for _ in range(2):
            for i in range(140, 150):
                streams = model(ids[i : i + 1], [1], [state])
            assert torch.equal(streams, whole[149:])
            state.rollback(10)
        state.restore(snapshot)
        assert torch.equal(model(ids[140:141], [1], [state]), whole[140:141])


def test_a_forked_child_computes_the_same() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    x, w = torch.randn(64, 512), torch.randn(512, 512)
    want = linear(x, w)  # starts the pool that the child will not have
    child = os.fork()
    if child == 0:
        os._exit(0 if torch.equal(linear(x, w), want) else 1)
    torch.set_num_threads(threads)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
