"""The engine's sampler against arithmetic on small logits."""

from __future__ import annotations

import math

import pytest
import torch

from dougong.engine.sampler import Options, adjust, draw, logprob
from dougong.errors import InputError
from dougong.model.sampling import SamplingParams, sample

GREEDY = SamplingParams(temperature=0)
LOGITS = torch.tensor([2.0, -1.0, 0.5, 1.0])


def test_plain_options_leave_the_logits_alone() -> None:
    assert adjust(LOGITS, Options(), [0], [1, 1]) is LOGITS


def test_penalties_follow_their_definitions() -> None:
    options = Options(presence_penalty=0.5, frequency_penalty=0.25)
    got = adjust(LOGITS, options, prompt_ids=[0], written=[1, 1, 3])
    # 1 twice, 3 once; the prompt does not count
    assert got.tolist() == [2.0, -1.0 - 0.5 - 0.5, 0.5, 1.0 - 0.5 - 0.25]
    got = adjust(LOGITS, Options(repetition_penalty=2.0), prompt_ids=[0], written=[1])
    assert got.tolist() == [1.0, -2.0, 0.5, 1.0]


def test_biases_stops_and_grammar_shut_tokens_out() -> None:
    got = adjust(LOGITS, Options(logit_bias={2: 100.0}), [0], [])
    assert draw(got, GREEDY, 5) == 2
    got = adjust(LOGITS, Options(), [0], [], forbidden=[0])
    assert draw(got, GREEDY, 5) == 3
    allowed = torch.tensor([False, True, False, False])
    only = adjust(LOGITS, Options(), [0], [], allowed_V=allowed)
    for seed in range(50):
        assert draw(only, SamplingParams(temperature=3.0, seed=seed), 5) == 1
    with pytest.raises(InputError, match="no token is left"):
        adjust(LOGITS, Options(), [0], [], forbidden=[1], allowed_V=allowed)


def test_shutting_out_a_token_that_would_not_come_changes_nothing() -> None:
    for seed in range(200):
        sampling = SamplingParams(temperature=1.5, seed=seed)
        token = sample(LOGITS, sampling, 9)
        others = [i for i in range(4) if i != token][:2]
        got = draw(adjust(LOGITS, Options(), [0], [], forbidden=others), sampling, 9)
        assert got == token


def test_log_probabilities_are_the_softmax_s() -> None:
    total = sum(math.exp(x) for x in LOGITS.tolist())
    got = logprob(LOGITS, 3, 2)
    assert got.logprob == pytest.approx(1.0 - math.log(total), abs=1e-6)  # fp32's last digits
    assert [token for token, _ in got.top] == [0, 3]
    assert logprob(LOGITS, 3, 0).top == ()


def test_nan_is_not_drawn_from() -> None:
    with pytest.raises(InputError, match="NaN"):
        draw(torch.tensor([0.0, math.nan, -math.inf]), GREEDY, 0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"presence_penalty": 3}, "from -2 to 2"),
        ({"repetition_penalty": 0}, "from 0.1 to 10"),
        ({"logit_bias": {5: 101}}, "logit_bias of id 5"),
        ({"frequency_penalty": "a"}, "a number is wanted"),
    ],
)
def test_values_out_of_range_are_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Options(**options)  # type: ignore[arg-type]
