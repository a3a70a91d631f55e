"""What the comparisons with transformers share: measured top-k margins and error measures."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

# Two correct float32 implementations differ by about 1e-6 in a score: choices closer than this may
# fall either way, so such draws are not compared.
SMALLEST_MARGIN = 1e-5
MASKED = -1e30  # transformers masks with -inf or with the dtype's smallest number
# Of the drawn cases; more would mean that the comparison proves little.
LARGEST_SKIPPED_SHARE = 0.2


class _TopKMargins(TorchFunctionMode):
    """Notes how near each top-k's last choice came to the first value left out."""

    def __init__(self) -> None:
        super().__init__()
        self.smallest = math.inf

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func in (torch.topk, torch.Tensor.topk):
            values, k = args[0], result.values.shape[-1]
            if k < values.shape[-1]:
                ordered = values.detach().sort(-1, descending=True).values
                ordered = ordered.where(ordered > MASKED, -math.inf)
                gaps = ordered[..., k - 1] - ordered[..., k]
                # a masked first loser is infinitely far; a masked winner too gives nan
                self.smallest = min(self.smallest, gaps.nan_to_num(math.inf).min().item())
        return result


class Oracle:
    """Runs a foreign model and decides whether its discrete choices were clear enough."""

    def __init__(self) -> None:
        self.drawn = self.skipped = 0

    @contextmanager
    def watched(self) -> Iterator[_TopKMargins]:
        """Everything in the block counts as one drawn case."""
        with _TopKMargins() as margins:
            yield margins
        self.drawn += 1
        self.skipped += self.is_unclear(margins)

    @staticmethod
    def is_unclear(margins: _TopKMargins) -> bool:
        return margins.smallest < SMALLEST_MARGIN

    def assert_few_skipped(self, at_least: int) -> None:
        assert self.drawn >= at_least
        assert self.skipped <= LARGEST_SKIPPED_SHARE * self.drawn, (self.skipped, self.drawn)

    @staticmethod
    def error(got: Tensor, want: Tensor, floor: float = 1e-30) -> float:
        """Largest difference, in units of the largest expected value or, if more, of `floor`."""
        assert got.shape == want.shape
        return ((got - want).abs().max() / want.abs().max().clamp_min(floor)).item()

    def worst_gradient(self, got: dict[str, Tensor], want: dict[str, Tensor]) -> tuple[float, str]:
        """The largest error over tensors with the same names, and whose it is.

        Gradients that are 0 but for rounding (a router's, with one normalized expert) are measured
        against the model's other gradients.
        """
        assert got.keys() == want.keys()
        floor = 1e-3 * max(grad.abs().max().item() for grad in want.values())
        return max((self.error(got[name], want[name], floor), name) for name in want)


@pytest.fixture
def oracle() -> Oracle:
    return Oracle()
