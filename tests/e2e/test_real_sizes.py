"""Backend cpu's promises on models of real size, as they are served: `pytest -m large`.

M97 and a Flash-shaped checkpoint (16 GB) are made for this, or taken from the folders that
DOUGONG_M97 and DOUGONG_FLASH name. Minutes, and room for 16 GB on disk and in memory are needed.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dougong import api
from dougong.checkpoint.make import cut_config, make_checkpoint
from dougong.config import load_config
from dougong.model.transformer import Transformer

pytestmark = pytest.mark.large


@dataclass(frozen=True)
class Subject:
    """A model and a prompt that is long enough for its indexer to choose."""

    model: Transformer
    ids: Tensor

    def streams(self, chunks: list[int]) -> Tensor:
        """Streams [T, S, D] of the prompt cut into `chunks`, the last one repeating."""
        state, parts, at = self.model.new_state(), [], 0
        with torch.inference_mode():
            while at < len(self.ids):
                size = min(chunks[min(len(parts), len(chunks) - 1)], len(self.ids) - at)
                parts.append(self.model(self.ids[at : at + size], [size], [state]))
                at += size
        return torch.cat(parts)


@pytest.fixture(scope="module", params=["nano", "m97", "flash"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str | Path:
    name = request.param
    if name == "nano":
        return name
    if given := os.environ.get(f"DOUGONG_{name.upper()}"):
        return given
    config = load_config("m97")
    if name == "flash":
        config = cut_config(load_config("v4-flash"), layers=4)
    return make_checkpoint(config, tmp_path_factory.mktemp(name) / name).folder


@pytest.fixture(scope="module", params=["bfloat16", "float32"])
def subject(request: pytest.FixtureRequest, place: str | Path) -> Subject:
    assert api.serving_backend(place) == "cpu"
    dtype, rounding = request.param, "none"
    if dtype == api.serving_dtype("cpu"):
        rounding = api.serving_rounding(place)
    model = api.load(place, backend="cpu", fallback=False, dtype=dtype, rounding=rounding)
    config = model.transformer.config
    tokens = 4 * config.index_topk + 140  # a block of 128 tokens beyond
    ids = torch.randint(config.vocab_size, (tokens,), generator=torch.Generator().manual_seed(0))
    return Subject(model.transformer, ids)


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_chunkings_and_threads_give_equal_bits(subject: Subject) -> None:
    torch.set_num_threads(1)
    whole = subject.streams([len(subject.ids)])
    torch.set_num_threads(2)
    assert torch.equal(subject.streams([1000, 17]), whole)
    torch.set_num_threads(3)
    # the last tokens one by one, as decoding takes them
    assert torch.equal(subject.streams([7, 128, len(subject.ids) - 160, 1]), whole)


def test_a_request_in_company_is_what_it_is_alone(subject: Subject) -> None:
    model, ids = subject.model, subject.ids[:300]
    alone = Subject(model, ids).streams([260, 1])
    states, lengths = [model.new_state() for _ in range(3)], [100, 260, 3]
    prompts = [subject.ids[i : i + length] for i, length in enumerate(lengths)]
    prompts[1] = ids[:260]
    with torch.inference_mode():
        parts = [model(torch.cat(prompts), lengths, states)[100:360]]
        for at in range(260, 300):
            step = torch.stack([subject.ids[at + 9], ids[at], subject.ids[at + 5]])
            parts.append(model(step, [1, 1, 1], states)[1:2])
    assert torch.equal(torch.cat(parts), alone)
