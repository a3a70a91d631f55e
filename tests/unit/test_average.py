"""The moving average of weights, against its formula; clamps counted one by one."""

import pytest
import torch

from dougong.kernels.experts import counted_clamps, expert_mlp, swiglu
from dougong.train.average import Average


def test_average_follows_its_formula() -> None:
    layer = torch.nn.Linear(1, 1, bias=False)
    average = Average(layer, decay=0.5)
    expected = 0.0
    for step, value in enumerate((4.0, 8.0, 2.0), start=1):
        with torch.no_grad():
            layer.weight.fill_(value)
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))  # 3/12 at step 2, 4/13 at step 3
        expected = value if step == 1 else decay * expected + (1 - decay) * value
        assert average.state["weight"].item() == pytest.approx(expected)


def test_average_is_applied_only_inside() -> None:
    layer = torch.nn.Linear(3, 3)
    average = Average(layer, decay=0.9)
    average.update(1)
    first = layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight.add_(1)
    last = layer.weight.detach().clone()
    with average.applied():
        assert torch.equal(layer.weight, first)
    assert torch.equal(layer.weight, last)


def test_nothing_is_applied_before_the_first_step() -> None:
    layer = torch.nn.Linear(3, 3)
    own = layer.weight.detach().clone()
    with Average(layer, decay=0.9).applied():
        assert torch.equal(layer.weight, own)


def test_clamp_is_one_sided_at_the_gate_and_counted_in_three() -> None:
    gate = torch.tensor([11.0, -50.0, 10.0, 10.5])
    up = torch.tensor([1.0, -12.0, 30.0, 10.0])
    with counted_clamps() as counts:
        out = swiglu(gate, up, 10.0)
    assert [count.tolist() for count in counts] == [[2, 1, 1]]
    clamped_gate = torch.tensor([10.0, -50.0, 10.0, 10.0])
    clamped_up = torch.tensor([1.0, -10.0, 10.0, 10.0])
    expected = clamped_gate / (1 + torch.exp(-clamped_gate)) * clamped_up
    torch.testing.assert_close(out, expected)  # silu and this formula differ by float rounding


def test_clamps_are_counted_only_inside_and_only_with_a_limit() -> None:
    big = torch.full((2, 3), 20.0)
    weight = torch.eye(3)
    with counted_clamps() as counts:
        expert_mlp(big, weight, weight, weight, None, limit=10.0, rounded=False)
        swiglu(big, big, 0.0)
    swiglu(big, big, 10.0)
    assert [count.tolist() for count in counts] == [[6, 6, 0]]
