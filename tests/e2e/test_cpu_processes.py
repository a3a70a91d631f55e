"""Backend cpu under several Python threads, and in children that were forked or spawned."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from support.tiny import write_tiny_checkpoint
from torch import Tensor

from dougong.conform.case import Case, Results
from dougong.conform.draw import Draw
from dougong.conform.operator_cases import MAKERS
from dougong.kernels.cpu.products import linear
from dougong.kernels.registry import operators
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


@pytest.fixture
def two_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("two_threads")
def test_operators_keep_their_bits_in_several_python_threads() -> None:
    """Each caller has OpenMP threads of its own; no scratch memory may be shared."""
    cases: list[Case] = [make(Draw(3), 60) for makers in MAKERS.values() for make in makers]
    ops = operators("cpu", fallback=False)

    def run(case: Case) -> Results:
        with torch.inference_mode():
            return case.run(ops)

    alone = [run(case) for case in cases]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(run, cases * 3))
    for case, got, want in zip(cases * 3, together, alone * 3, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(got, want, strict=True)), case.about


def product_and_decode(folder: Path) -> list[np.ndarray]:
    """A product large enough for several threads, and what the whole model says."""
    draw = Draw(0)
    product = linear(draw.noise(64, 512), draw.noise(512, 512))
    model = load_model(folder, backend="cpu", fallback=False)
    return [product.numpy(), decode(model, 0).numpy()]


def compare_in_child(folder: Path, want: list[np.ndarray]) -> None:
    """Ends the child with status 0 if it computes the parent's bits."""
    torch.set_num_threads(2)
    sys.exit(0 if all(map(np.array_equal, product_and_decode(folder), want)) else 1)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_a_child_process_computes_the_same_bits(folder: Path, start: str) -> None:
    want = product_and_decode(folder)  # starts the threads that a forked child will not have
    child = multiprocessing.get_context(start).Process(
        target=compare_in_child, args=(folder, want), daemon=True
    )
    child.start()
    child.join(120)  # a hang is a failure
    assert child.exitcode == 0


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


def test_an_instruction_path_that_does_not_run_here_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dougong.cli.main", "generate", "Hello!"],
        env={**os.environ, "DOUGONG_CPU_PATH": "abacus"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert "DOUGONG_CPU_PATH: path 'abacus' does not run here" in done.stderr
