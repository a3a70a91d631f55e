"""What the comparisons with transformers share: measured top-k margins and error measures."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

# Two correct float32 implementations differ by about 1e-6 in a score: choices closer than this may
# fall either way, so such draws are not compared. A clamp has a value on both sides of its bound,
# but a gradient on one only; what it clamps differs by 1e-7.
SMALLEST_MARGIN = 1e-5
SMALLEST_CLAMP_MARGIN = 1e-6
MASKED = -1e30  # transformers masks with -inf or with the dtype's smallest number
# Of the drawn cases; more would mean that the comparison proves little.
LARGEST_SKIPPED_SHARE = 0.2


class _Margins(TorchFunctionMode):
    """Notes how near each top-k came to another choice, and each clamp to its bound."""

    def __init__(self, gradients: bool) -> None:
        super().__init__()
        self.gradients = gradients
        self.top_k = self.clamp = math.inf

    @property
    def are_clear(self) -> bool:
        clamps_are_clear = not self.gradients or self.clamp >= SMALLEST_CLAMP_MARGIN
        return self.top_k >= SMALLEST_MARGIN and clamps_are_clear

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func in (torch.topk, torch.Tensor.topk):
            self._note_top_k(args[0].detach(), result.values.shape[-1])
        elif func in (torch.clamp, torch.Tensor.clamp):
            for bound in (*args[1:], *(kwargs or {}).values()):
                if bound is not None and args[0].numel():
                    distance = (args[0].detach() - bound).abs().min().item()
                    self.clamp = min(self.clamp, distance)
        return result

    def _note_top_k(self, values: Tensor, k: int) -> None:
        if k < values.shape[-1]:
            ordered = values.sort(-1, descending=True).values
            ordered = ordered.where(ordered > MASKED, -math.inf)
            gaps = ordered[..., k - 1] - ordered[..., k]
            # a masked first loser is infinitely far; a masked winner too gives nan
            self.top_k = min(self.top_k, gaps.nan_to_num(math.inf).min().item())


class Oracle:
    """Watches a foreign model run, and counts the cases whose choices were not clear enough."""

    def __init__(self) -> None:
        self.drawn = self.skipped = 0

    @contextmanager
    def watched(self, *, gradients: bool) -> Iterator[_Margins]:
        """Everything in the block counts as one drawn case; are its gradients compared, too?"""
        with _Margins(gradients) as margins:
            yield margins
        self.drawn += 1
        self.skipped += not margins.are_clear

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

        Gradients that cancel to 0 but for rounding (a router's with one normalized expert, a single
        stream's mixing weight before a norm) are measured against the model's other gradients.
        """
        assert got.keys() == want.keys()
        floor = 1e-2 * max(grad.abs().max().item() for grad in want.values())
        return max((self.error(got[name], want[name], floor), name) for name in want)


@pytest.fixture
def oracle() -> Oracle:
    return Oracle()
