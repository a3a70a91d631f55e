"""Every length and every split: what comes of a prompt does not hang on where it was cut, `==`.

The reference is the request alone, one token at a time. 400 tokens pass three blocks, windows and
HCA entries, and every residue of 4, where a CSA entry begins.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from support.tiny import write_tiny_checkpoint
from torch import Tensor

import dougong
from dougong.engine.core import Core
from dougong.engine.request import Job, Logprob
from dougong.engine.sampler import Options, logprob
from dougong.engine.scheduler import Limits
from dougong.engine.settings import DraftSettings
from dougong.engine.states import States
from dougong.engine.windows import Strategy, Windows
from dougong.kernels.paged import BlockPool
from dougong.model.sampling import SamplingParams
from dougong.model.state import RequestState
from dougong.model.transformer import Transformer

LENGTH = 400
IDS = torch.randint(0, 300, (LENGTH,), generator=torch.Generator().manual_seed(1))
NEAR = [*range(1, 13), *(block + i for block in (128, 256, 384) for i in range(-4, 6))]
NEW = 6  # tokens of an answer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Transformer]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = write_tiny_checkpoint(tmp_path_factory.mktemp("lengths") / "tiny")
    loaded = dougong.load(folder, backend="cpu", dtype="bfloat16", rounding="release")
    assert isinstance(loaded.transformer, Transformer)
    with torch.inference_mode():
        yield loaded.transformer
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def answers(model: Transformer) -> dict[int, list[Logprob]]:
    """What is drawn behind the first tokens of `IDS`, for each number of them in `NEAR`."""
    found, state = {}, model.new_state()
    for length in range(1, max(NEAR) + 1):
        row_V = model.logits(model(IDS[length - 1 : length], [1], [state]))[0]
        if length in NEAR:
            found[length] = answer(model, state.fork(), row_V)
    return found


def answer(model: Transformer, state: RequestState, row_V: Tensor) -> list[Logprob]:
    entries: list[Logprob] = []
    while len(entries) < NEW:
        entries.append(logprob(row_V, int(row_V.argmax()), 1))
        row_V = model.logits(model(torch.tensor([entries[-1].token]), [1], [state]))[0]
    return entries


def test_every_split_gives_the_rows_of_one_token_at_a_time(model: Transformer) -> None:
    """A chunk, a token with three drafts of which 0 to 3 are right, a token, and a chunk."""
    state = model.new_state()
    wanted = torch.cat([model(IDS[i : i + 1], [1], [state]) for i in range(LENGTH)])
    pool = BlockPool(model.layout.block_bytes, 8, poison=True)
    for cut in range(1, LENGTH - 5):
        state, right = model.new_state(pool), cut % 4
        drafted = IDS[cut : cut + 4].clone()
        drafted[1 + right :] ^= 1
        rows = [model(IDS[:cut], [cut], [state])]
        rows.append(model(drafted, [4], [state])[: 1 + right])
        state.rollback(3 - right)
        for low, high in ((cut + 1 + right, cut + 2 + right), (cut + 2 + right, LENGTH)):
            rows.append(model(IDS[low:high], [high - low], [state]))
        assert torch.equal(torch.cat(rows), wanted), cut
        state.release()
        assert pool.num_used == 0


@pytest.mark.parametrize("step_tokens", [9, 61, 128, 500])
def test_answers_behind_every_length_are_those_of_the_plain_model(
    model: Transformer, answers: dict[int, list[Logprob]], step_tokens: int
) -> None:
    """Together and then again, so that all but the first find what others left."""
    states = States(model, 40, windows=Windows(Strategy.PERIODIC, 256), poison=True)
    limits = Limits(step_tokens=step_tokens, running=9)
    core = Core(model, states, limits, drafts=DraftSettings(lookup=3, always=True))
    greedy = Options(sampling=SamplingParams(temperature=0.0))
    for turn in range(2):
        requests = {
            length: core.submit(
                Job(prompt_ids=IDS[:length].tolist(), max_tokens=NEW, options=greedy, logprobs=1)
            )
            for length in NEAR[:: 1 - 2 * turn]
        }
        core.run()
        for length, request in requests.items():
            assert request.logprobs == answers[length], (turn, length)
    assert states.counts["memory hits"] > len(NEAR) // 2
    states.cache.clear()
    assert states.pool.num_used == 0
