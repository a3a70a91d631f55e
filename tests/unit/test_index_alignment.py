"""The indexer's loss: zero at the attention it imitates, and moving nothing but the indexer."""

import json
from pathlib import Path

import pytest
import torch

from dougong.config import load_config
from dougong.kernels.alignment import divergence, entry_probabilities, hidden_entries
from dougong.model.initialize import initialize
from dougong.model.transformer import Transformer
from dougong.train.index_alignment import SHORTEST, alignment_loss, observed_attention
from tests.support import training


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Transformer:
    folder: Path = tmp_path_factory.mktemp("index")
    (folder / "config.json").write_text(json.dumps(training.MODEL))
    return initialize(Transformer(load_config(folder / "config.json")), seed=3)


def draw(num_tokens: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(num_tokens)
    return torch.randint(training.VOCAB_SIZE, (num_tokens,), generator=generator)


def test_divergence_is_zero_at_the_target_and_positive_elsewhere() -> None:
    hidden = torch.tensor([[True, True, True], [False, False, True], [False, False, False]])
    target = torch.tensor([[0.0, 0.0, 0.0], [0.1, 0.3, 0.0], [0.2, 0.2, 0.1]])
    scores = target.log().nan_to_num(neginf=0.0)  # a softmax restores the shares
    assert divergence(target, scores, hidden).item() == pytest.approx(0, abs=1e-6)
    # by hand: KL of (1/4, 3/4) and of (2/5, 2/5, 1/5) from even shares, averaged over two queries
    first = 0.25 * torch.tensor(0.5).log() + 0.75 * torch.tensor(1.5).log()
    second = 0.8 * torch.tensor(1.2).log() + 0.2 * torch.tensor(0.6).log()
    even = divergence(target, torch.zeros(3, 3), hidden)
    assert even.item() == pytest.approx((first + second).item() / 2, rel=1e-5)


def test_only_the_indexers_get_a_gradient(model: Transformer) -> None:
    model.zero_grad(set_to_none=True)
    with observed_attention(model, active=True) as losses:
        model(draw(200), [90, 110])
    assert len(losses) == 1
    alignment_loss(losses).backward()
    moved = {name for name, p in model.named_parameters() if p.grad is not None}
    wanted = {name for name, _ in model.named_parameters() if ".indexer." in name}
    assert moved == wanted


def test_target_is_the_probability_the_layer_uses(model: Transformer) -> None:
    """One query's softmax over window, entries and sink, written out head by head."""
    num_tokens = 72
    layer, seen = model.layers[0].attn, []
    layer.watch = seen.append
    with torch.no_grad():
        model(draw(num_tokens), [num_tokens])
    layer.watch = None
    q_THC, kv_TC, entries_MC = seen[0].q_THC, seen[0].kv_TC, seen[0].entries_MC
    assert entries_MC is not None
    hidden_NM = hidden_entries(
        torch.zeros(num_tokens, num_tokens // layer.ratio), layer.ratio, None
    )
    window = layer.config.sliding_window
    target_NM = entry_probabilities(q_THC, kv_TC, entries_MC, layer.attn_sink, hidden_NM, window)
    query, position = num_tokens - 1, num_tokens - 1
    keys = torch.cat([kv_TC[position - window + 1 : position + 1], entries_MC])
    for_heads = torch.zeros(entries_MC.shape[0])
    for head in range(q_THC.shape[1]):
        logits = keys @ q_THC[query, head] / q_THC.shape[-1] ** 0.5
        weights = torch.exp(logits)
        total = weights.sum() + torch.exp(layer.attn_sink[head])
        for_heads = for_heads + weights[window:] / total
    torch.testing.assert_close(target_NM[query], for_heads)
    assert not hidden_NM[query].any()
    assert hidden_NM[3].sum() == entries_MC.shape[0] - 1  # token 3 completes the first entry


def test_short_samples_are_left_out(model: Transformer) -> None:
    with observed_attention(model, active=True) as losses:
        model(draw(SHORTEST - 1), [SHORTEST - 1])
    assert alignment_loss(losses).item() == 0
