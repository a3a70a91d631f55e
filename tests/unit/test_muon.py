"""Muon against its published definition, in plain float64 arithmetic."""

import numpy as np
import pytest
import torch

from dougong.train.muon import MOMENTUM, UPDATE_RMS, muon_update, orthogonalize
from dougong.train.optimizer import Optimizer, independent_matrices, uses_muon


def published_newton_schulz(matrix: np.ndarray) -> np.ndarray:
    """X <- a X + b (X X^T) X + c (X X^T)^2 X: 8 times the fast, 2 times the settling numbers."""
    x = matrix / np.linalg.norm(matrix)
    for a, b, c in [(3.4445, -4.7750, 2.0315)] * 8 + [(2.0, -1.5, 0.5)] * 2:
        gram = x @ x.T
        x = a * x + b * gram @ x + c * gram @ gram @ x
    return x


@pytest.mark.parametrize("shape", [(16, 16), (48, 16), (16, 48), (1, 16)])
def test_orthogonalized_matrix_is_the_published_iteration(shape: tuple[int, int]) -> None:
    matrix = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1))
    ours = orthogonalize(matrix, torch.float64).numpy()
    for got, source in zip(ours, matrix.double().numpy(), strict=True):
        # float32 results of a float64 iteration; X X^T may act on either side
        np.testing.assert_allclose(got, published_newton_schulz(source), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_singular_values_come_out_near_one(dtype: torch.dtype) -> None:
    matrix = torch.randn(4, 32, 64, generator=torch.Generator().manual_seed(2))
    singular = torch.linalg.svdvals(orthogonalize(matrix, dtype))
    # the settling rounds end within 1e-3 of 1; BF16 products add errors of about 2^-8 each
    assert (singular - 1).abs().max() < (0.005 if dtype == torch.float32 else 0.05)


@pytest.mark.parametrize("shape", [(32, 32), (64, 32), (32, 128)])
def test_update_of_a_full_rank_matrix_has_the_rms_of_the_report(shape: tuple[int, int]) -> None:
    grad = torch.randn(2, *shape, generator=torch.Generator().manual_seed(3))
    update = muon_update(grad, torch.zeros_like(grad))
    # orthonormal rows of n <= m give RMS 1/sqrt(m), times sqrt(m) * 0.18; BF16 rounding around it
    assert update.square().mean().sqrt().item() == pytest.approx(UPDATE_RMS, rel=0.02)


def test_momentum_is_nesterov() -> None:
    grad = torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(4))
    momentum = torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(5))
    before = momentum.clone()
    update = muon_update(grad, momentum)
    assert torch.equal(momentum, before * MOMENTUM + grad)
    expected = orthogonalize(MOMENTUM * (before * MOMENTUM + grad) + grad) * (8**0.5 * UPDATE_RMS)
    assert torch.equal(update, expected)


def test_each_expert_is_updated_by_itself() -> None:
    """Another expert's gradient changes nothing in this one's matrix: ==."""
    name = "layers.0.ffn.experts.w1"
    weight = torch.randn(3, 8, 16, generator=torch.Generator().manual_seed(6))
    grads = torch.randn(3, 8, 16, generator=torch.Generator().manual_seed(7))
    results = []
    for factor in (1.0, 100.0):
        parameter = torch.nn.Parameter(weight.clone())
        parameter.grad = grads.clone()
        parameter.grad[1:] *= -factor
        Optimizer({name: parameter}, o_groups=1).step(0.01)
        results.append(parameter.detach()[0].clone())
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], weight[0])


def test_output_projection_groups_are_independent_matrices() -> None:
    weight = torch.arange(8.0).view(4, 2)
    groups = independent_matrices("layers.0.attn.wo_a.weight", weight, o_groups=2)
    assert groups.shape == (2, 2, 2)
    assert torch.equal(groups[1], weight[2:])


def test_groups_are_those_of_the_report() -> None:
    matrix, vector = torch.zeros(4, 4), torch.zeros(4)
    adamw = {
        "embed.weight": matrix,
        "head.weight": matrix,
        "norm.weight": vector,
        "layers.0.hc_attn.base": vector,
        "layers.0.hc_attn.scale": vector,
        "layers.0.attn.attn_sink": vector,
        "layers.1.attn.compressor.ape": matrix,
    }
    muon = {
        "layers.0.hc_attn.fn": matrix,
        "layers.0.attn.wq_a.weight": matrix,
        "layers.0.ffn.gate.weight": matrix,
        "layers.0.ffn.experts.w2": torch.zeros(2, 4, 4),
    }
    assert [uses_muon(name, tensor) for name, tensor in adamw.items()] == [False] * len(adamw)
    assert [uses_muon(name, tensor) for name, tensor in muon.items()] == [True] * len(muon)


def test_adamw_matches_torch_but_for_its_epsilon() -> None:
    start = torch.randn(5, generator=torch.Generator().manual_seed(8))
    ours, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    optimizer = Optimizer({"norm.weight": ours}, o_groups=1)
    torch_adamw = torch.optim.AdamW([theirs], lr=0.01, betas=(0.9, 0.95), eps=1e-20,
                                    weight_decay=0.1)  # fmt: skip
    for step in range(5):
        grad = torch.randn(5, generator=torch.Generator().manual_seed(9 + step))
        ours.grad, theirs.grad = grad.clone(), grad.clone()
        optimizer.step(0.01)
        torch_adamw.step()
    # the same float32 formulas in another order of operations
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)
