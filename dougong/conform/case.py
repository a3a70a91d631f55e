"""An operator on drawn inputs, as a function of some of their rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from dougong.kernels.registry import Operators
from dougong.kernels.stored import StoredMatrix

Results = tuple[Tensor, ...]
Call = Callable[[Operators, SimpleNamespace, slice], Results]

# The largest difference that may be, relative and absolute alike, where results are about 1.
# float32: a few units in the last place of the largest term, over some hundred terms summed in
# another order. bfloat16: results keep 8 bits, and one rounding may fall the other way.
CLOSE = {torch.float32: 2e-5, torch.bfloat16: 2e-2}
EXACT = 0.0


@dataclass(frozen=True)
class Case:
    """One operator with its inputs; `call` gives the results of some rows, rows first.

    `want` computes what the results must be, the reference on widened inputs where it is None;
    `close` is how near (0: equal).
    """

    operator: str
    about: str
    rows: int
    inputs: dict[str, Any]
    call: Call
    close: float
    want: Call | None = None

    def run(self, ops: Operators, first: int = 0, stop: int | None = None) -> Results:
        """The results of rows `first` to `stop` - 1, computed together."""
        rows = slice(first, self.rows if stop is None else stop)
        return self.call(ops, SimpleNamespace(**self.inputs), rows)

    def expected(self, ops: Operators, reference: Operators) -> Results:
        """What `run` of all rows must give."""
        everything = slice(0, self.rows)
        if self.want is not None:
            return self.want(ops, SimpleNamespace(**self.inputs), everything)
        widened = {name: widen(value) for name, value in self.inputs.items()}
        return self.call(reference, SimpleNamespace(**widened), everything)

    def named(self, operator: str) -> Case:
        """The same under another operator's name."""
        return replace(self, operator=operator)


def widen(value: Any) -> Any:
    """float32 tensors of bfloat16 ones and of stored matrices, exactly; anything else as it is."""
    if isinstance(value, StoredMatrix):
        return value.dense()
    if isinstance(value, Tensor) and value.dtype == torch.bfloat16:
        return value.float()
    return value
