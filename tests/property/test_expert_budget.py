"""Under any memory budget the bits are those of the whole model: `==`, whatever is evicted when."""

import os
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.tiny import tiny_config
from torch import Tensor

from dougong.checkpoint import open_checkpoint, write_checkpoint
from dougong.checkpoint.locate import SHIPPED_MODELS
from dougong.checkpoint.make import make_checkpoint
from dougong.errors import CheckpointError, InputError
from dougong.model.expert_cache import ExpertCache
from dougong.model.expert_usage import Usage
from dougong.model.initialize import initialize
from dougong.model.loading import fixed_bytes, load_model, published_tensors
from dougong.model.transformer import Transformer

CONFIG = replace(tiny_config(), n_routed_experts=12, num_hidden_layers=4, num_hash_layers=1,
                 compress_ratios=(0, 4, 128, 4, 0))  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(CONFIG, tmp_path_factory.mktemp("made") / "model").folder


RELEASE: dict[str, Any] = {"rounding": "release", "dtype": torch.bfloat16}


@pytest.fixture(scope="module")
def wanted(folder: Path) -> dict[str, Tensor]:
    """Logits of the whole model."""
    return {"exact": run(load(folder)), "release": run(load(folder, **RELEASE))}


def load(folder: Path, slots: int | None = None, **options: Any) -> Transformer:
    """The model; with as many slots for its experts as asked for."""
    if slots is None:
        return load_model(folder, backend="cpu", fallback=False, **options)
    ample = load_model(folder, backend="cpu", memory_bytes=2**40, fallback=False, **options)
    assert ample.expert_cache is not None
    memory = fixed_bytes(ample) + slots * ample.expert_cache.slots.nbytes
    return load_model(folder, backend="cpu", memory_bytes=memory, fallback=False, **options)


def run(model: Transformer, seed: int = 0, tokens: int = 60, chunk: int = 50) -> Tensor:
    """Logits of a prompt in chunks, of twelve tokens one by one, and of two requests at once."""
    ids = torch.randint(0, model.config.vocab_size, (tokens + 12,),
                        generator=torch.Generator().manual_seed(seed))  # fmt: skip
    state, parts = model.new_state(), []
    with torch.inference_mode():
        for low in range(0, tokens, chunk):
            piece = ids[low : min(low + chunk, tokens)]
            parts.append(model.logits(model(piece, [len(piece)], [state])))
        for at in range(tokens, tokens + 12):
            parts.append(model.logits(model(ids[at : at + 1], [1], [state])))
        states = [state, model.new_state()]
        parts.append(model.logits(model(ids[:9], [4, 5], states)))
    return torch.cat(parts)


class Chaos(Usage):
    """Evicts at random and guesses at random what comes next."""

    draw = random.Random(0)

    def least(self, numbers: np.ndarray) -> int:
        return self.draw.randrange(len(numbers))

    def likely(self, layer: int, tokens: int) -> list[int]:
        return self.draw.sample(range(self.chance_LE.shape[1]), 5)


@pytest.mark.parametrize("slots", [2, 3, 7, 12, 1000])
def test_a_budget_changes_no_bit(
    slots: int, folder: Path, wanted: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(folder, slots)
    assert model.expert_cache is not None
    assert model.expert_cache.slots.count == min(slots, 5 * 12)  # four layers and the MTP block
    assert torch.equal(run(model), wanted["exact"])
    assert model.expert_cache.traffic.reads > 0
    monkeypatch.setattr("dougong.model.expert_cache.Usage", Chaos)
    model = load(folder, slots, **RELEASE)
    assert torch.equal(run(model), wanted["release"])
    assert torch.equal(run(model, chunk=7), wanted["release"])


def test_the_shipped_model_under_a_tenth_of_its_experts() -> None:
    nano = SHIPPED_MODELS / "nano"
    whole, model = run(load(nano), tokens=150), load(nano, slots=9)
    assert torch.equal(run(model, tokens=150), whole)
    assert torch.equal(run(model, tokens=150, chunk=150), whole)


def test_mtp_blocks_share_the_budget(folder: Path) -> None:
    ids = torch.arange(40)

    def drafted(model: Transformer) -> Tensor:
        with torch.inference_mode():
            streams = model(ids, [40], [model.new_state()])
            return model.mtp_logits(model.mtp_streams(streams[:-1], ids[1:], [39]))

    assert torch.equal(drafted(load(folder, 3)), drafted(load(folder)))


def test_traffic_counts_what_was_read(folder: Path) -> None:
    model = load(folder, 1000)
    cache = model.expert_cache
    assert cache is not None
    before = cache.traffic
    run(model)
    first = cache.traffic.since(before)
    assert first.reads <= 60
    assert first.bytes_read >= first.reads * sum(
        open_checkpoint(folder).info(f"layers.0.ffn.experts.0.{w}.weight").nbytes
        for w in ("w1", "w2", "w3")
    )
    assert first.disk_rate > 0
    run(model)
    later = cache.traffic.since(before).since(first)
    assert later.uses == first.uses
    assert later.reads == later.bytes_read == later.disk_rate == 0  # all are there


def test_hash_routed_layers_are_read_before_the_pass_reaches_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, asked = load(folder, 20), []
    real = ExpertCache._start

    def start(self: ExpertCache, number: int, slot: int) -> None:
        asked.append((number // self.count, bool(self._ahead) or inside[0]))
        real(self, number, slot)

    inside = [False]
    begin = ExpertCache.begin

    def begins(self: ExpertCache, ids_T: Tensor) -> None:
        inside[0] = True
        begin(self, ids_T)
        inside[0] = False

    monkeypatch.setattr(ExpertCache, "_start", start)
    monkeypatch.setattr(ExpertCache, "begin", begins)
    with torch.inference_mode():
        model(torch.tensor([5]), [1], [model.new_state()])
    assert [ahead for layer, ahead in asked if layer == 0] == [True, True]


def test_several_threads_and_a_forked_child_get_the_same(
    folder: Path, wanted: dict[str, Tensor]
) -> None:
    model = load(folder, 5)
    with ThreadPoolExecutor(3) as pool:
        for got in pool.map(lambda _: run(model), range(3)):
            assert torch.equal(got, wanted["exact"])
    child = os.fork()
    if child == 0:
        os._exit(0 if torch.equal(run(model), wanted["exact"]) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert torch.equal(run(model), wanted["exact"])


def test_an_interrupt_anywhere_leaves_a_model_that_is_right(
    folder: Path, wanted: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, draw = load(folder, 4), random.Random(1)
    cache = model.expert_cache
    assert cache is not None
    calls = 0

    def interrupted(real: Any) -> Any:
        def call(*arguments: Any) -> Any:
            nonlocal calls
            calls += 1
            if draw.random() < 0.02:
                raise KeyboardInterrupt
            return real(*arguments)

        return call

    with monkeypatch.context() as patch:
        for name in ("_forget", "_arrive", "_wait", "_free_slot"):
            patch.setattr(cache, name, interrupted(getattr(cache, name)))
        patch.setattr(cache.slots, "fill", interrupted(cache.slots.fill))
        cut_off = 0
        while cut_off < 12:
            try:
                run(model, seed=calls)
            except KeyboardInterrupt:
                cut_off += 1
    assert torch.equal(run(model), wanted["exact"])


def test_a_damaged_expert_is_named_when_it_is_used_and_not_before(
    folder: Path, tmp_path: Path
) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    extents = open_checkpoint(tmp_path).extents("layers.1.ffn.experts.7.w2.weight")
    with extents[1].path.open("r+b") as file:
        file.seek(extents[1].begin)
        file.write(b"\xff")
    with pytest.raises(CheckpointError, match="UE8M0 scales"):
        load(tmp_path)
    model = load_model(tmp_path, backend="cpu", memory_bytes=2**40)
    for _ in range(2):
        with pytest.raises(CheckpointError, match="UE8M0 scales"):
            run(model)


def test_budgets_that_cannot_work_are_refused_in_a_sentence(folder: Path, tmp_path: Path) -> None:
    whole = load(folder)
    with pytest.raises(InputError, match="the weights besides routed experts take"):
        load_model(folder, backend="cpu", memory_bytes=1000)
    with pytest.raises(InputError, match="the 2 that one token uses in a layer need"):
        load_model(folder, backend="cpu", memory_bytes=fixed_bytes(whole) + 5000)
    with pytest.raises(InputError, match="reference widens them; choose cpu"):
        load_model(folder, memory_bytes=2**40)
    model = initialize(Transformer(CONFIG), 0)
    write_checkpoint(tmp_path / "half", CONFIG, published_tensors(model), dtype="float16")
    with pytest.raises(InputError, match="is stored as F16, which has to be converted"):
        load_model(tmp_path / "half", backend="cpu", memory_bytes=2**40)
