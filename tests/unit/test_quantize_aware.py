"""Rounding in the training loop: the values that ship, gradients straight through, wide tiles."""

import json
from pathlib import Path

import pytest
import torch

from dougong.config import load_config
from dougong.kernels.compressor import round_index_vector
from dougong.kernels.rounding import e2m1_scale, round_e2m1, round_e4m3
from dougong.model.initialize import initialize
from dougong.model.loading import load_model
from dougong.model.transformer import Transformer
from dougong.train.data.encode import Encoded
from dougong.train.data.mixture import pack
from dougong.train.export import export_model
from dougong.train.losses import training_loss
from dougong.train.quantize_aware import (
    as_served,
    parameter_roles,
    scale_span,
    stored_value,
    wide_tiles,
)
from tests.support import training


@pytest.fixture
def model(tmp_path: Path) -> Transformer:
    (tmp_path / "config.json").write_text(json.dumps(training.MODEL | {"index_topk": 16}))
    return initialize(Transformer(load_config(tmp_path / "config.json")), seed=5)


def draw(num_tokens: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(num_tokens)
    return torch.randint(training.VOCAB_SIZE, (num_tokens,), generator=generator)


def exact_weights(model: Transformer) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def gradients(model: Transformer) -> dict[str, torch.Tensor]:
    """Of every loss there is, for one sample long enough for the indexer to cut and for HCA."""
    ids = draw(140).tolist()
    model.zero_grad(set_to_none=True)
    batch = pack([Encoded(ids, [0.0] + [1.0] * (len(ids) - 1))])
    losses = training_loss(model, batch, mtp_weight=0.3, balance_weight=0.01, align_index=True)
    losses.total.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_exact_weights_get_the_gradient_of_the_rounded_ones(model: Transformer) -> None:
    """==: a model that simply has the rounded values computes the same gradients."""
    before = exact_weights(model)
    with as_served(model):
        inside = gradients(model)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    roles = parameter_roles(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(stored_value(parameter, roles[name]))
    model.build.rounded = model.build.rounded_inputs = True
    plain = gradients(model)
    assert set(inside) == set(before), "a parameter without a gradient would not be trained"
    assert all(torch.equal(inside[name], plain[name]) for name in plain)


def test_exact_weights_return_even_if_the_step_fails(model: Transformer) -> None:
    before = exact_weights(model)

    def fail() -> None:
        with as_served(model):
            assert not torch.equal(model.head.weight, before["head.weight"])
            assert model.build.rounded
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        fail()
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert (model.build.rounded, model.build.rounded_inputs) == (False, False)


def test_shipped_model_as_served_is_the_trained_one(model: Transformer, tmp_path: Path) -> None:
    """==: the exported file, read back and run with the release's rounding, gives these logits."""
    folder = training.write_inputs(tmp_path / "inputs")
    ids = draw(200)
    with torch.no_grad(), as_served(model):
        trained = model.logits(model(ids, [200]))
    export_model(model, folder, tmp_path / "shipped")
    shipped = load_model(tmp_path / "shipped", rounding="release")
    with torch.no_grad():
        assert torch.equal(shipped.logits(shipped(ids, [200])), trained)


@pytest.mark.parametrize("rounding", [round_e2m1, round_e4m3])
def test_gradient_passes_the_rounding_unchanged(rounding: object) -> None:
    x = torch.randn(3, 64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    upstream = torch.randn(3, 64, generator=torch.Generator().manual_seed(2))
    (rounding(x, 32) * upstream).sum().backward()
    assert torch.equal(x.grad, upstream)


def test_gradient_of_an_index_vector_is_turned_back_by_the_hadamard_matrix() -> None:
    """Round trip of the gradient: the rotation is orthogonal and symmetric, the rounding passes."""
    x = torch.randn(2, 32, generator=torch.Generator().manual_seed(3)).double().requires_grad_()
    rounded = round_index_vector(x)
    rounded.backward(rounded.detach())
    # the gradient of |y|^2 / 2 is y, seen from before the rotation: rotated once more
    again = torch.autograd.functional.vjp(lambda y: round_index_vector(y), x.detach(), rounded)[1]
    assert torch.equal(x.grad, again)
    assert (x.grad - x.detach()).abs().max() < 0.8  # FP4 of values up to 3: half a step is 0.5


def test_rounding_what_is_rounded_changes_nothing(model: Transformer) -> None:
    roles = parameter_roles(model)
    for name, parameter in model.named_parameters():
        once = stored_value(parameter.detach(), roles[name])
        assert torch.equal(stored_value(once, roles[name]), once), name


def test_tiles_too_wide_for_fp8_are_counted(model: Transformer) -> None:
    """One block of 32 made 2^11 and 2^12 times smaller than its tile's largest."""
    assert wide_tiles(model) == 0
    w1 = model.layers[1].ffn.experts.w1
    with torch.no_grad():
        w1[2] = 0.5 + torch.rand(w1[2].shape, generator=torch.Generator().manual_seed(4)) / 4
        scale = e2m1_scale(w1[2], 32)
        assert torch.equal(scale, torch.full_like(scale, 0.125))  # 0.75 / 6, rounded up
        w1[2, 7] *= 2.0**-11
    assert scale_span(w1)[2].item() == 2.0**11
    assert wide_tiles(model) == 0
    with torch.no_grad():
        w1[2, 7] /= 2
    assert wide_tiles(model) == 1


def test_span_that_fp8_holds_is_the_one_of_the_specification() -> None:
    """FP4 value times scale over (largest scale / 2^6) in E4M3: normal to 2^11, exact to 2^14.

    Infrastructure specification 3, by enumeration with torch's own E4M3.
    """
    values = torch.tensor([0.5, 1, 1.5, 2, 3, 4, 6])
    for span in range(20):
        factor = values * 2.0 ** (6 - span)
        exact = torch.equal(factor.to(torch.float8_e4m3fn).float(), factor)
        assert exact == (span <= 14)
        assert bool((factor >= 2.0**-6).all()) == (span <= 11)
