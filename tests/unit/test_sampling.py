"""Drawing tokens: the right distribution, the same draw for the same key, ties to the lowest id."""

from __future__ import annotations

import math

import pytest
import torch

from dougong.errors import InputError
from dougong.model.sampling import SamplingParams, _mix, gumbel, sample, sample_many


def draws(logits: torch.Tensor, count: int, **options: float) -> torch.Tensor:
    params = SamplingParams(**options)  # type: ignore[arg-type]
    return torch.tensor([sample(logits, params, position) for position in range(count)])


def test_splitmix64_gives_the_published_first_output_for_seed_zero() -> None:
    # 0xE220A8397B1DCDAF is the first output of SplitMix64 seeded with 0 in its reference code.
    assert int(_mix(torch.tensor(0))) == 0xE220A8397B1DCDAF - 2**64


def test_frequencies_follow_the_softmax() -> None:
    logits = torch.tensor([0.0, 1.0, -1.0, 0.5])
    count = 4000
    frequency = torch.bincount(draws(logits, count), minlength=4) / count
    # Five standard deviations of a binomial share with p <= 1/2 over 4,000 draws.
    assert torch.allclose(frequency, torch.softmax(logits, 0), atol=5 * 0.5 / math.sqrt(count))


def test_noise_has_the_moments_of_a_gumbel_variable() -> None:
    noise = gumbel(3, 5, torch.arange(200_000))
    # Mean: Euler's constant; variance: pi^2 / 6; five standard errors each (kurtosis 5.4).
    assert abs(float(noise.mean()) - 0.5772157) < 5 * 1.2825 / math.sqrt(200_000)
    assert abs(float(noise.var()) - math.pi**2 / 6) < 5 * 1.645 * math.sqrt(4.4 / 200_000)


def test_same_seed_and_position_give_the_same_token_and_others_do_not() -> None:
    logits = torch.zeros(1000)
    first = [sample(logits, SamplingParams(seed=1), position) for position in range(20)]
    again = [sample(logits, SamplingParams(seed=1), position) for position in reversed(range(20))]
    other = [sample(logits, SamplingParams(seed=2), position) for position in range(20)]
    assert first == again[::-1]
    assert len(set(first)) > 15
    assert sum(a == b for a, b in zip(first, other, strict=True)) < 5


def test_a_token_dropped_by_a_filter_does_not_change_the_noise_of_the_others() -> None:
    logits = torch.randn(50, generator=torch.Generator().manual_seed(0))
    kept = set(torch.topk(logits, 10).indices.tolist())
    for position in range(50):
        free = sample(logits, SamplingParams(), position)
        if free in kept:
            assert sample(logits, SamplingParams(top_k=10), position) == free


def test_greedy_and_filters_give_ties_to_the_lowest_id() -> None:
    logits = torch.tensor([0.0, 2.0, 2.0, 2.0])
    assert sample(logits, SamplingParams(temperature=0), 0) == 1
    assert set(draws(logits, 50, top_k=2).tolist()) == {1, 2}


def test_the_smallest_temperature_is_greedy() -> None:
    logits = torch.tensor([1.0, 3.0, 2.0, 3.0 - 1e-6])
    assert sample(logits, SamplingParams(temperature=5e-324), 0) == 1
    assert sample(logits, SamplingParams(temperature=1e-300, top_p=0.5), 0) == 1


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"top_k": 1}, {0}),
        ({"top_k": 3}, {0, 1, 2}),
        ({"top_k": 99}, {0, 1, 2, 3}),
        ({"top_p": 0.4}, {0}),  # 0.5 alone reaches 0.4
        ({"top_p": 0.7}, {0, 1}),  # 0.5 is short of it, 0.5 + 0.25 reaches it
        ({"top_p": 1e-9}, {0}),
        ({"min_p": 0.3}, {0, 1}),  # 0.25 >= 0.3 * 0.5 > 0.125 >= ...
        ({"min_p": 1.0}, {0}),
        ({"top_k": 2, "top_p": 0.7}, {0, 1}),  # renormalized: 2/3 is short of 0.7
        ({"top_k": 2, "top_p": 0.6}, {0}),  # 2/3 reaches 0.6
    ],
)
def test_filters_keep_exactly_these_tokens(options: dict[str, float], kept: set[int]) -> None:
    logits = torch.log(torch.tensor([0.5, 0.25, 0.125, 0.125], dtype=torch.float64))
    assert set(draws(logits, 200, **options).tolist()) == kept


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"top_k": -1},
        {"min_p": 2.0},
        {"seed": -1},
        {"seed": 2**63},
    ],
)
def test_a_value_outside_its_range_is_refused_by_name(options: dict[str, float]) -> None:
    (name,) = options
    with pytest.raises(InputError, match=name):
        SamplingParams(**options)  # type: ignore[arg-type]


def test_logits_that_are_not_numbers_are_refused() -> None:
    with pytest.raises(InputError, match="position 7"):
        sample(torch.tensor([0.0, float("nan")]), SamplingParams(), 7)


@pytest.mark.parametrize("size", [5, 1000, 4095])
def test_rows_drawn_together_are_the_tokens_drawn_alone(size: int) -> None:
    rows = torch.randn(40, size, generator=torch.Generator().manual_seed(size)).round(decimals=1)
    rows[7, 3] = torch.nan
    params = [
        SamplingParams(temperature=(0, 0.01, 1, 3)[i % 4], seed=i // 2, top_k=10 * (i % 9 == 8))
        for i in range(40)
    ]
    together = sample_many(rows, params, range(100, 140))
    left = [i for i, one in enumerate(params) if i == 7 or (one.temperature and one.top_k)]
    assert [i for i, token in enumerate(together) if token is None] == left
    for i, token in enumerate(together):
        assert token is None or token == sample(rows[i], params[i], 100 + i)
