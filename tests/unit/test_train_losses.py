"""Packing keeps samples apart; balance and schedules do what the report says."""

import json
import random
from pathlib import Path

import pytest
import torch

from dougong.config import load_config
from dougong.model.initialize import initialize
from dougong.model.transformer import Transformer
from dougong.train.data.encode import Encoded
from dougong.train.data.mixture import PackedBatch, pack
from dougong.train.losses import Routing, balance_biases, sequence_balance, training_loss
from tests.support import training


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Transformer:
    folder: Path = tmp_path_factory.mktemp("losses")
    (folder / "config.json").write_text(json.dumps(training.MODEL))
    config = load_config(folder / "config.json")
    return initialize(Transformer(config, dtype=torch.float64), seed=3)


@pytest.fixture(scope="module")
def model_as_trained(tmp_path_factory: pytest.TempPathFactory) -> Transformer:
    """In float32 by backend training; its indexers cut, and what is served is rounded."""
    folder: Path = tmp_path_factory.mktemp("packing")
    values = training.MODEL | {"index_topk": 16, "num_hidden_layers": 3}
    values["compress_ratios"] = [4, 128, 0, 0]
    (folder / "config.json").write_text(json.dumps(values))
    config = load_config(folder / "config.json")
    model = initialize(Transformer(config, backend="training"), seed=3)
    model.build.rounded = model.build.rounded_inputs = True
    return model


def drawn(seed: int, length: int, low: int = 0, high: int = training.VOCAB_SIZE) -> Encoded:
    rng = random.Random(seed)
    ids = [rng.randrange(low, high) for _ in range(length)]
    return Encoded(ids, [0.0] + [1.0] * (length - 1))


def loss_of(model: Transformer, batch: PackedBatch) -> torch.Tensor:
    return training_loss(model, batch, mtp_weight=0.3, balance_weight=0.0).total


def test_targets_end_with_their_sample() -> None:
    batch = pack([Encoded([5, 6, 7], [0.0, 1.0, 1.0]), Encoded([8, 9], [0.0, 0.5])])
    assert batch.ids_T.tolist() == [5, 6, 7, 8, 9]
    assert batch.lengths == [3, 2]
    assert batch.target_T.tolist() == [6, 7, 0, 9, 0]
    assert batch.weight_T.tolist() == [1.0, 1.0, 0.0, 0.5, 0.0]
    assert batch.second_T.tolist() == [7, 0, 0, 0, 0]
    assert batch.second_weight_T.tolist() == [1.0, 0.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_a_samples_loss_has_no_gradient_in_its_neighbours(
    model: Transformer, order: list[int]
) -> None:
    """The embeddings of a neighbour's tokens get a gradient of exactly 0: nothing leaks."""
    counted = drawn(1, 150, high=256)
    neighbour = drawn(2, 170, low=256)
    silent = Encoded(neighbour.ids, [0.0] * len(neighbour.ids))
    both = [counted, silent]
    model.zero_grad()
    loss_of(model, pack([both[i] for i in order])).backward()
    gradient = model.embed.weight.grad
    assert gradient[256:].eq(0).all()
    assert gradient[counted.ids].ne(0).any(-1).all()


def test_another_neighbour_gives_the_same_loss(model: Transformer) -> None:
    counted = drawn(1, 150)
    losses = []
    for seed in (4, 5):
        other = Encoded(drawn(seed, 170).ids, [0.0] * 170)
        losses.append(loss_of(model, pack([other, counted])).item())
    # float64; expert batches of other sizes may add in another order
    assert losses[0] == pytest.approx(losses[1], rel=1e-13)


def token_losses(model: Transformer, batch: PackedBatch) -> list[torch.Tensor]:
    """Cross entropies of every token, sample by sample; the MTP block's beside the main one's."""
    with torch.no_grad():
        streams_TSD = model(batch.ids_T, batch.lengths)
        further_TSD = model.mtp_streams(streams_TSD, batch.target_T, batch.lengths)
        both = (
            torch.nn.functional.cross_entropy(logits, target, reduction="none")
            for logits, target in (
                (model.logits(streams_TSD), batch.target_T),
                (model.mtp_logits(further_TSD), batch.second_T),
            )
        )
        return list(torch.stack(tuple(both), -1).split(batch.lengths))


@pytest.mark.parametrize("changed", [0, 1, 2])
def test_what_one_sample_says_changes_no_bit_of_the_others(
    model_as_trained: Transformer, changed: int
) -> None:
    """Three samples whose tails end inside blocks of 4 and of 128: ==, whatever one of them says.

    Compressed entries that crossed a border, or a window that reached over it, would show.
    """
    lengths = (131, 257, 150)
    samples = [drawn(seed, length) for seed, length in enumerate(lengths)]
    before = token_losses(model_as_trained, pack(samples))
    samples[changed] = drawn(99, lengths[changed])
    after = token_losses(model_as_trained, pack(samples))
    for i, (one, other) in enumerate(zip(before, after, strict=True)):
        assert torch.equal(one, other) == (i != changed)


def test_a_sample_alone_has_the_losses_it_has_in_company(model_as_trained: Transformer) -> None:
    samples = [drawn(seed, length) for seed, length in enumerate((131, 257, 150))]
    together = token_losses(model_as_trained, pack(samples))
    for sample, losses in zip(samples, together, strict=True):
        alone = token_losses(model_as_trained, pack([sample]))[0]
        assert torch.equal(alone, losses)


def test_balance_loss_is_one_when_even_and_grows_with_skew() -> None:
    even = Routing(torch.ones(4, 2), torch.tensor([[0], [1], [0], [1]]))
    assert sequence_balance(even, [4]).item() == pytest.approx(1.0)
    skewed = Routing(torch.tensor([[3.0, 1.0]] * 4), torch.zeros(4, 1, dtype=torch.int64))
    # slots all on expert 0, mean score 3/4, times two experts
    assert sequence_balance(skewed, [4]).item() == pytest.approx(1.5)


def test_balance_loss_is_taken_sample_by_sample() -> None:
    """Two samples that are each skewed do not even out each other."""
    scores = torch.tensor([[3.0, 1.0]] * 2 + [[1.0, 3.0]] * 2)
    routing = Routing(scores, torch.tensor([[0], [0], [1], [1]]))
    assert sequence_balance(routing, [2, 2]).item() == pytest.approx(1.5)
    assert sequence_balance(routing, [4]).item() == pytest.approx(1.0)


def test_bias_moves_towards_even_loads(model: Transformer) -> None:
    name = "layers.1.ffn.gate"
    router = model.get_submodule(name)
    before = router.bias.clone()
    balance_biases(model, {name: torch.tensor([9, 1, 5, 5])}, rate=0.001)
    moved = (router.bias - before).sign().tolist()
    assert moved == [-1.0, 1.0, 0.0, 0.0]


def test_parts_of_a_batch_are_its_samples_in_order() -> None:
    batch = pack([drawn(seed, length) for seed, length in enumerate((30, 40, 90, 20, 20))])
    parts = list(batch.split(64))
    assert [part.lengths for part in parts] == [[30], [40], [90], [20, 20]]
    assert torch.equal(torch.cat([part.ids_T for part in parts]), batch.ids_T)
    assert torch.equal(torch.cat([part.second_T for part in parts]), batch.second_T)


def test_parts_add_up_to_the_batchs_gradient(model: Transformer) -> None:
    batch = pack([drawn(seed, length) for seed, length in enumerate((40, 60, 50))])

    def gradient(parts: list[PackedBatch]) -> torch.Tensor:
        model.zero_grad()
        for part in parts:
            losses = training_loss(model, part, mtp_weight=0.0, balance_weight=0.0)
            (losses.total * part.weight_T.sum() / batch.weight_T.sum()).backward()
        return model.layers[0].attn.wq_a.weight.grad.clone()

    whole, in_parts = gradient([batch]), gradient(list(batch.split(64)))
    # float64; only the order of additions differs (weights are float32: 1e-7)
    torch.testing.assert_close(in_parts, whole, rtol=1e-6, atol=1e-12)
