"""Two implementations of the release's rounding agree: numpy formats and torch activations."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from dougong.formats import dequantize, find_format, quantize
from dougong.kernels.rounding import round_e2m1, round_e4m3

# Largest values at which a power-of-two scale is about to change, for E4M3 and for E2M1.
EDGES = np.float32([448, 224, 6, 3])


def rows_at_the_edges(generator: np.random.Generator) -> np.ndarray:
    """Random rows of many magnitudes; in the first ones each group's largest is at an edge."""
    x = generator.standard_normal((64, 512)) * 10 ** generator.uniform(-1, 3, (64, 1))
    x = x.astype(np.float32)
    edges = [*EDGES, *np.nextafter(EDGES, np.float32(0)), *np.nextafter(EDGES, np.float32(1e9))]
    for row, edge in enumerate(edges):
        x[row] = np.clip(x[row], -edge, edge)
        x[row, ::32] = edge
    return x


@pytest.mark.parametrize(
    ("rounding", "group", "name"),
    [(round_e4m3, 128, "fp8_row128_ue8m0"), (round_e2m1, 32, "fp4_row32_ue8m0")],
)
def test_torch_rounds_activations_as_the_format_says(
    rounding: Callable[[Tensor, int], Tensor], group: int, name: str
) -> None:
    generator = np.random.default_rng(0)
    for exponent in range(-3, 4):  # all above 1e-4, which the release takes for 0
        x = rows_at_the_edges(generator) * np.float32(2.0**exponent)
        ours = dequantize(quantize(x, find_format(name)))
        assert np.array_equal(rounding(torch.from_numpy(x), group).numpy(), ours)
