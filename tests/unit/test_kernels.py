"""Operators against arithmetic done elsewhere (architecture specification 12) and by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dougong.config import RopeScaling
from dougong.errors import BackendError
from dougong.kernels.compressor import hadamard, pool
from dougong.kernels.experts import swiglu
from dougong.kernels.hyper_connection import sinkhorn
from dougong.kernels.index import select_top_k, visible_entries
from dougong.kernels.registry import operator_names, operators
from dougong.kernels.rotary import frequencies, rotate, rotations
from dougong.kernels.rounding import pow2_ceil, round_e2m1, round_e4m3
from dougong.kernels.router import router, router_scores, top_k_lowest_index

YARN = RopeScaling(factor=16, original_max_position_embeddings=65536, beta_fast=32, beta_slow=1)
YARN_FREQUENCIES = [
    1, 0.687656045, 0.472870797, 0.325172454, 0.223606795, 0.153764561, 0.10573712, 0.0727107748,
    0.05, 0.0343828015, 0.0236435402, 0.0162586235, 0.0111803403, 0.00768822804, 0.00528685655,
    0.00363553851, 0.00226562493, 0.00139680132, 0.000849689706, 0.000508081983, 0.000296977785,
    0.000168179977, 9.08678412e-05, 4.54442306e-05, 1.95312532e-05, 5.37231244e-06, 3.69430336e-06,
    2.5404097e-06, 1.74692821e-06, 1.20128561e-06, 8.260713e-07, 5.6805294e-07,
]  # fmt: skip


def test_yarn_frequencies_are_the_published_ones() -> None:
    ours = frequencies(64, 160000, YARN)
    # nine digits were printed, from float32
    torch.testing.assert_close(ours, torch.tensor(YARN_FREQUENCIES), rtol=3e-7, atol=0)


def test_frequencies_without_scaling_are_powers_of_theta() -> None:
    want = [10000 ** (-2 * k / 16) for k in range(8)]
    torch.testing.assert_close(
        frequencies(16, 10000, None).double(), torch.tensor(want).double(), rtol=1e-6, atol=0
    )


def test_rotation_turns_interleaved_pairs_of_the_last_channels() -> None:
    x = torch.arange(1.0, 7.0)[None]  # two channels stay, two pairs turn
    turned = rotate(x, rotations(torch.tensor([math.pi / 2, math.pi]), torch.tensor([1])))
    torch.testing.assert_close(turned, torch.tensor([[1.0, 2, -4, 3, -5, -6]]), rtol=0, atol=1e-6)
    back = rotate(
        turned, rotations(torch.tensor([math.pi / 2, math.pi]), torch.tensor([1])), inverse=True
    )
    torch.testing.assert_close(back, x, rtol=0, atol=1e-6)


def test_rotation_at_a_million_is_the_float32_product() -> None:
    freqs = frequencies(64, 160000, YARN)
    position = 1_000_003
    angle = np.float32(position) * freqs.numpy()  # float32 product, as in the release
    want = np.cos(angle.astype(np.float64))
    got = rotations(freqs, torch.tensor([position])).real[0].double().numpy()
    np.testing.assert_allclose(got, want, atol=2e-7)  # one float32 ulp of a cosine


def test_sinkhorn_golden() -> None:
    a = torch.tensor(
        [[0.0, 1, 2, 3], [3, 0, 1, 2], [-1, 4, 0, 0], [2, 2, -3, 1]], dtype=torch.float64
    )
    want = torch.tensor(
        [
            [0.0153467, 0.0165861, 0.5284663, 0.4396006],
            [0.4597314, 0.0091007, 0.2899642, 0.2412035],
            [0.0130645, 0.7708001, 0.1654897, 0.0506429],
            [0.5118564, 0.2035122, 0.0160788, 0.2685519],
        ],
        dtype=torch.float64,
    )
    p = sinkhorn(a[..., None], 20, 1e-6)[..., 0]
    torch.testing.assert_close(p, want, rtol=0, atol=2e-7)  # printed from float32
    # sum / (sum + eps), where the sum was within a few percent of 1
    torch.testing.assert_close(p.sum(0), torch.full((4,), 1 - 1e-6).double(), rtol=0, atol=5e-8)


def test_router_scores_golden() -> None:
    x = torch.tensor([[-8.0], [-1], [0], [1], [8], [25]])
    want = torch.tensor([0.0183141, 0.5596979, 0.8325546, 1.1459763, 2.8284864, 5.0])
    scores = router_scores(x, torch.ones(1, 1))[:, 0]
    torch.testing.assert_close(scores, want, rtol=0, atol=2e-7)  # seven digits were printed


def test_bias_selects_but_does_not_weigh() -> None:
    x, weight = torch.ones(1, 1), torch.tensor([[3.0], [2.0], [1.0]])
    bias = torch.tensor([0.0, 0.0, 5.0])
    weights, experts = router(x, weight, bias, None, top_k=2, route_scale=1.5)
    assert experts.tolist() == [[2, 0]]
    raw = [math.sqrt(math.log1p(math.exp(z))) for z in (1.0, 3.0)]
    want = torch.tensor([[1.5 * value / sum(raw) for value in raw]])
    torch.testing.assert_close(weights, want, rtol=1e-6, atol=0)


def test_of_equal_scores_the_lowest_index_wins() -> None:
    assert top_k_lowest_index(torch.tensor([1.0, 2, 2, 0, 2]), 2).tolist() == [1, 2]
    scores = torch.zeros(1, 40)
    scores[0, 30] = 1
    picked = select_top_k(scores, torch.tensor([40]), 4)
    assert picked.tolist() == [[0, 1, 2, 30]]


@given(st.data())
def test_selection_equals_a_sort_by_score_then_index(data: st.DataObject) -> None:
    num = data.draw(st.integers(1, 30))
    k = data.draw(st.integers(1, 12))
    visible = data.draw(st.integers(0, num))
    scores = data.draw(st.lists(st.integers(-2, 2), min_size=num, max_size=num))  # many ties
    picked = select_top_k(torch.tensor([scores]).float(), torch.tensor([visible]), k)[0].tolist()
    order = sorted(range(visible), key=lambda i: (-scores[i], i))
    assert [i for i in picked if i >= 0] == sorted(order[:k])
    assert len(picked) == min(k, num)


def test_an_entry_is_visible_to_the_last_token_of_its_block() -> None:
    assert visible_entries(0, 9, 4, torch.device("cpu")).tolist() == [0, 0, 0, 1, 1, 1, 1, 2, 2]


def test_swiglu_clamps_the_gate_above_only() -> None:
    gate, up = torch.tensor([20.0, -20.0, 1.0]), torch.tensor([20.0, -20.0, 1.0])
    silu = [2 / (1 + math.exp(-2)), -20 / (1 + math.exp(20)), 1 / (1 + math.exp(-1))]
    want = torch.tensor([silu[0] * 2, silu[1] * -2, silu[2]])
    torch.testing.assert_close(swiglu(gate, up, 2.0), want, rtol=1e-6, atol=0)


def test_a_swiglu_limit_of_zero_clamps_nothing() -> None:
    gate, up = torch.tensor([30.0, -3.0]), torch.tensor([-50.0, 7.0])
    want = torch.tensor([30.0 * -50.0, -3 / (1 + math.exp(3)) * 7])
    torch.testing.assert_close(swiglu(gate, up, 0.0), want, rtol=1e-6, atol=0)


def test_pool_mixes_the_previous_blocks_first_half_with_the_own_second_half() -> None:
    generator = np.random.default_rng(3)
    value, score = generator.normal(size=(2, 3, 4, 10))  # three blocks of four tokens, D = 5
    pooled = pool(torch.tensor(value), torch.tensor(score), overlap=True, first=True).numpy()
    for block in range(3):
        for channel in range(5):
            v = list(value[block, :, 5 + channel])
            z = list(score[block, :, 5 + channel])
            if block:
                v += list(value[block - 1, :, channel])
                z += list(score[block - 1, :, channel])
            p = np.exp(z) / np.exp(z).sum()
            assert abs(pooled[block, channel] - (p * v).sum()) < 1e-12
    later = pool(torch.tensor(value), torch.tensor(score), overlap=True, first=False).numpy()
    np.testing.assert_allclose(later, pooled[1:], atol=1e-12)


@pytest.mark.parametrize("size", [1, 2, 32, 128])
def test_hadamard_is_orthonormal_with_sylvesters_signs(size: int) -> None:
    matrix = hadamard(torch.eye(size, dtype=torch.float64))
    torch.testing.assert_close(matrix @ matrix.t(), torch.eye(size).double(), rtol=0, atol=1e-12)
    i, j = np.indices((size, size))
    signs = 1 - 2 * (np.array([bin(n).count("1") for n in (i & j).flat]) % 2).reshape(size, size)
    np.testing.assert_array_equal(np.sign(matrix.numpy()), signs)


def test_fp8_group_golden() -> None:
    x = torch.tensor([448.5, 0.3, -1.7, 100, 0.001, -0.02, 3.14159])
    want = [448.0, 0.3125, -1.75, 96, 0, -0.01953125, 3.25]
    assert round_e4m3(x, 128).tolist() == want  # amax 448.5 makes the scale 2


def test_fp4_ties_go_to_the_even_code() -> None:
    ties = [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 6.0]
    want = [0.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0, 6.0]
    assert round_e2m1(torch.tensor(ties), 32).tolist() == want
    assert round_e2m1(-torch.tensor(ties), 32).tolist() == [-w for w in want]


@given(st.floats(2.0**-100, 2.0**100, width=32))
def test_pow2_ceil_is_the_next_power_of_two(x: float) -> None:
    got = pow2_ceil(torch.tensor([x]))[0].item()
    mantissa, exponent = math.frexp(x)
    assert got == (math.ldexp(1, exponent - 1) if mantissa == 0.5 else math.ldexp(1, exponent))


def test_rounding_passes_gradients_straight_through() -> None:
    for rounded in (round_e4m3, round_e2m1):
        x = torch.randn(3, 70, requires_grad=True)
        (rounded(x, 32) * torch.arange(70.0)).sum().backward()
        assert torch.equal(x.grad, torch.arange(70.0).expand(3, 70))


def test_an_unknown_backend_is_refused_with_the_known_ones() -> None:
    with pytest.raises(BackendError, match="abacus.*choose one of: .*reference"):
        operators("abacus")
    assert len(operator_names()) >= 12
