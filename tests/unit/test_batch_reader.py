"""Batches made ahead by workers are those made on the spot, and workers end with their run."""

import signal
import subprocess
import sys
import time

import pytest
import torch

from dougong.chat.tokenizer import load_tokenizer
from dougong.train.data.corpus import Corpus
from dougong.train.data.mixture import Mixture, PackedBatch
from dougong.train.data.reader import BatchReader
from tests.support import training

RUN = """
import sys, time
from dougong.train.data.reader import BatchReader
reader = BatchReader(print, 1, workers=2)
print(*reader._pool._processes, flush=True)
time.sleep(60)
"""


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Mixture:
    tokenizer = load_tokenizer(training.write_inputs(tmp_path_factory.mktemp("reader")))
    return Mixture(training.MIX, tokenizer, Corpus(), seed=1, max_length=256)


def test_workers_make_the_same_batches_in_any_order(mixture: Mixture) -> None:
    def make(step: int) -> PackedBatch:
        return mixture.batch(step, 600)

    here, ahead = BatchReader(make, 9), BatchReader(make, 9, workers=2)
    for step in (0, 1, 2, 3, 1, 2, 8):  # a roll-back among them
        one, other = here(step), ahead(step)
        assert one.lengths == other.lengths
        for name in ("ids_T", "target_T", "weight_T", "second_T", "second_weight_T"):
            assert torch.equal(getattr(one, name), getattr(other, name))
    ahead.close()


def test_error_of_a_worker_reaches_the_run() -> None:
    def make(step: int) -> PackedBatch:
        raise ValueError(f"no batch {step}")

    reader = BatchReader(make, 9, workers=1)
    with pytest.raises(ValueError, match="no batch 0"):
        reader(0)
    reader.close()


def test_workers_end_when_their_run_is_killed() -> None:
    run = subprocess.Popen([sys.executable, "-c", RUN], stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    workers = [int(pid) for pid in run.stdout.readline().split()]
    assert len(workers) == 2
    run.send_signal(signal.SIGKILL)
    run.wait()
    run.stdout.close()
    for _ in range(300):
        if not any(_runs(pid) for pid in workers):
            return
        time.sleep(0.1)
    raise AssertionError(f"{workers} still run")


def _runs(pid: int) -> bool:
    """Whether a process is there and no zombie that nobody has waited for."""
    told = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return told.stdout.strip()[:1] not in ("", "Z")
