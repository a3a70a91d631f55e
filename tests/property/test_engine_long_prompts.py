"""Long prompts: states in a mapped file change no bit, and what a prompt will take is foretold."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
import torch
from torch import Tensor

import dougong
from dougong.engine import engine as engine_module
from dougong.engine.engine import Engine
from dougong.engine.estimate import prompt_seconds
from dougong.engine.request import Finish, Job, Reply
from dougong.engine.scheduler import Limits
from dougong.engine.settings import StateSettings
from dougong.engine.states import States
from dougong.errors import InputError
from dougong.model.state import RequestState
from dougong.model.transformer import Transformer


@pytest.fixture(scope="module")
def model() -> Iterator[Transformer]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    loaded = dougong.load("nano", backend="cpu", dtype="bfloat16", rounding="release")
    assert isinstance(loaded.transformer, Transformer)
    yield loaded.transformer
    torch.set_num_threads(threads)


def job(length: int) -> Job:
    rng = Random(length)
    return Job(prompt_ids=[rng.randrange(5, 4000) for _ in range(length)], max_tokens=8, logprobs=1)


def ask(model: Transformer, one: Job, states: StateSettings) -> Reply:
    with Engine(model, memory_tokens=len(one.prompt_ids) + 256, states=states) as engine:
        return engine.generate([one])[0]


def test_a_mapped_file_without_a_name_changes_no_bit(model: Transformer, tmp_path: Path) -> None:
    mapped = StateSettings(memory_bytes=100_000, scratch=tmp_path)
    with Engine(model, memory_tokens=2048, states=mapped) as engine:
        assert list(tmp_path.iterdir()) == []  # nothing to clean up after a kill
        replies = engine.generate([job(900), job(400)])
    for one, length in zip(replies, (900, 400), strict=True):
        other = ask(model, job(length), StateSettings())
        assert (one.ids, one.logprobs) == (other.ids, other.logprobs)


def test_an_estimate_sums_steps_that_grow_with_what_is_before_them(
    model: Transformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]

    def forward(ids_T: Tensor, lengths: list[int], states: list[RequestState]) -> Tensor:
        start, count = states[0].length, lengths[0]
        now[0] += sum(1.0 + position / 1000 for position in range(start, start + count))
        return torch.zeros(count, model.config.hc_mult, model.config.hidden_size)

    states, tokens = States(model, 64), 8000
    monkeypatch.setattr(model, "forward", forward)
    seconds = prompt_seconds(states, tokens, 500, clock=lambda: now[0])
    expected = sum(1.0 + position / 1000 for position in range(tokens))
    assert seconds == pytest.approx(expected, rel=0.01)  # a line: Simpson's rule is exact on it


def test_an_estimate_gives_back_its_memory_and_says_when_there_is_too_little(
    model: Transformer,
) -> None:
    with Engine(model, memory_tokens=1024) as engine:
        before = engine.generate([job(700)])[0]
        assert engine.estimate(1000) > 0
        with pytest.raises(InputError, match="room for 1024"):
            engine.estimate(1025)
        again = engine.generate([job(700)])[0]
        assert (again.ids, again.logprobs) == (before.ids, before.logprobs)


def test_progress_counts_prompt_tokens_up_to_the_last(
    model: Transformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "PROGRESS_SECONDS", 0.001)
    seen: list[tuple[int, int]] = []
    limits = Limits(step_tokens=100, running=8)
    with Engine(model, memory_tokens=4096, limits=limits) as engine:
        engine.generate([job(700), job(1300)], lambda done, total: seen.append((done, total)))
    assert {total for _, total in seen} == {2000}
    counts = [done for done, _ in seen]
    assert counts == sorted(counts)
    assert len(set(counts)) > 1
    assert counts[-1] == 2000


@pytest.mark.large
def test_a_prompt_of_a_million_tokens_takes_bounded_memory(model: Transformer) -> None:
    """docs/engine.md says how long it takes. States of 187 MB are mapped: 64 MiB are allowed."""
    settings = StateSettings(memory_bytes=64 * 2**20, resume_bytes=64 * 2**20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    reply = ask(model, job(1_000_000), settings)
    assert reply.finish is Finish.LENGTH
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * 1024 < 2 * 2**30  # mapped pages that are in memory count as well
