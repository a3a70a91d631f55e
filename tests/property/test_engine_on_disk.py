"""An engine with a folder for its states: restarts, kills, full disks and neighbours, `==`."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
import torch

import dougong
from dougong.engine import disk_store
from dougong.engine.engine import Engine
from dougong.engine.fingerprint import fingerprint
from dougong.engine.request import Job, Reply
from dougong.engine.settings import StateSettings
from dougong.engine.windows import Strategy, Windows
from dougong.errors import InputError
from dougong.model.transformer import Transformer

WINDOWS = Windows(Strategy.PERIODIC, 256)


def load(rounding: str = "release") -> Transformer:
    loaded = dougong.load("nano", backend="cpu", dtype="bfloat16", rounding=rounding)
    assert isinstance(loaded.transformer, Transformer)
    return loaded.transformer


@pytest.fixture(scope="module")
def model() -> Iterator[Transformer]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield load()
    torch.set_num_threads(threads)


def job(seed: int, length: int = 420) -> Job:
    rng = Random(seed)
    return Job(prompt_ids=[rng.randrange(5, 4000) for _ in range(length)], max_tokens=4, logprobs=1)


def ask(
    model: Transformer, jobs: list[Job], folder: Path | None, budget: int = 10**9
) -> list[Reply]:
    """The replies, one job after another, of an engine that lives only for them."""
    settings = StateSettings(windows=WINDOWS, folder=folder, folder_bytes=budget)
    with Engine(model, memory_tokens=4096, states=settings) as engine:
        return [engine.generate([job])[0] for job in jobs]


def same(replies: list[Reply], expected: list[Reply]) -> None:
    for one, other in zip(replies, expected, strict=True):
        assert (one.ids, one.logprobs) == (other.ids, other.logprobs)


@pytest.fixture(scope="module")
def cold(model: Transformer) -> list[Reply]:
    return ask(model, [job(seed) for seed in range(4)], None)


def test_another_engine_goes_on_from_the_folder(
    model: Transformer, cold: list[Reply], tmp_path: Path
) -> None:
    jobs = [job(seed) for seed in range(4)]
    first = ask(model, jobs, tmp_path / "states")
    second = ask(load(), jobs, tmp_path / "states")  # read anew: the same weights, the same print
    same(first, cold)
    same(second, cold)
    assert [reply.cached_tokens for reply in first + second] == [0] * 4 + [384] * 4


def test_another_model_or_rounding_or_tenant_finds_nothing(
    model: Transformer, tmp_path: Path
) -> None:
    ask(model, [job(0)], tmp_path)
    plain = load(rounding="none")
    (reply,) = ask(plain, [job(0)], tmp_path)
    assert reply.cached_tokens == 0
    changed = load()
    changed.norm.weight.data[3] += 0.5
    assert len({fingerprint(m) for m in (model, plain, changed)}) == 3
    (reply,) = ask(changed, [job(0)], tmp_path)
    assert reply.cached_tokens == 0
    same([reply], ask(changed, [job(0)], None))


def test_a_full_disk_ends_writing_and_no_answer(
    model: Transformer, cold: list[Reply], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, left = disk_store._write_whole, [5]

    def until_full(path: Path, data: bytes) -> None:
        if path.suffix != "" and left[0] == 0:
            raise OSError(28, "No space left on device")
        left[0] -= 1
        write(path, data)

    monkeypatch.setattr(disk_store, "_write_whole", until_full)
    jobs = [job(seed) for seed in range(4)]
    same(ask(model, jobs, tmp_path), cold)
    monkeypatch.undo()
    replies = ask(model, jobs, tmp_path)
    same(replies, cold)
    assert replies[0].cached_tokens > 0


def test_a_folder_whose_index_cannot_be_written_is_read(
    model: Transformer, cold: list[Reply], tmp_path: Path
) -> None:
    jobs = [job(seed) for seed in range(4)]
    ask(model, jobs[:2], tmp_path)
    for path in tmp_path.glob("index.sqlite*"):
        path.unlink()
    (tmp_path / "index.sqlite").mkdir()  # stands for a read-only disk, which root would not feel
    before = sorted(tmp_path.glob("??/*"))
    replies = ask(model, jobs, tmp_path)
    same(replies, cold)
    assert [reply.cached_tokens for reply in replies] == [384, 384, 0, 0]
    assert sorted(tmp_path.glob("??/*")) == before


def test_the_folder_keeps_to_its_budget(
    model: Transformer, cold: list[Reply], tmp_path: Path
) -> None:
    jobs, budget = [job(seed) for seed in range(4)], 900_000
    for _ in range(2):
        same(ask(model, jobs, tmp_path, budget), cold)
    files = [file.stat().st_size for file in tmp_path.glob("??/*")]
    assert 0 < sum(files) <= budget
    rows = sqlite3.connect(tmp_path / "index.sqlite").execute("SELECT SUM(bytes) FROM files")
    assert rows.fetchone() == (sum(files),)


def test_a_folder_that_cannot_be_had_is_refused_at_once(model: Transformer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(InputError, match="choose another folder or run without one"):
        Engine(model, states=StateSettings(folder=tmp_path / "file"))
    with pytest.raises(InputError, match="choose another folder for them or fewer tokens"):
        Engine(model, states=StateSettings(memory_bytes=1000, scratch=tmp_path / "none"))


WRITER = """
import sys
from pathlib import Path
import torch
from tests.property.test_engine_on_disk import WINDOWS, job, load
from dougong.engine.engine import Engine
from dougong.engine.settings import StateSettings
torch.set_num_threads(1)
settings = StateSettings(windows=WINDOWS, folder=Path(sys.argv[1]), folder_bytes=3_000_000)
with Engine(load(), memory_tokens=4096, states=settings) as engine:
    for number in range(10**6):
        engine.generate([job(number % 4 + 10 * (number // 4))])
        print(number, flush=True)
"""


def test_two_engines_killed_in_the_middle_leave_what_a_third_can_trust(
    model: Transformer, cold: list[Reply], tmp_path: Path
) -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    writers = [subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE) for _ in range(2)]
    for writer in writers:
        assert writer.stdout is not None
        for _ in range(6):
            assert writer.stdout.readline().strip().isdigit()
    for writer in writers:
        os.kill(writer.pid, signal.SIGKILL)
        writer.communicate()
    replies = ask(model, [job(seed) for seed in range(4)], tmp_path)
    same(replies, cold)
    assert sum(reply.cached_tokens > 0 for reply in replies) >= 3
