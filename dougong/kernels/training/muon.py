"""Muon's step on a batch of matrices, each worked on while it is in the cache.

Shapes: B independent matrices, N rows, M columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dougong.kernels.training.library import Muon, address, checked, run


def muon_step(
    parameter_BNM: Tensor,
    grad_BNM: Tensor,
    momentum_BNM: Tensor,
    coefficients: Sequence[Sequence[float]],
    *,
    decay: float,
    kept: float,
    step: float,
) -> None:
    """Advances momentum and parameter in place: parameter = kept * parameter - step * direction.

    The direction is the Nesterov momentum orthogonalized by Newton-Schulz with `coefficients`
    (a, b, c) of every round, in float32.
    """
    batch, rows, columns = parameter_BNM.shape
    grad_BNM = checked(grad_BNM, "muon: gradient", batch, rows, columns)
    for tensor, name in ((parameter_BNM, "parameter"), (momentum_BNM, "momentum")):
        assert checked(tensor, f"muon: {name}", batch, rows, columns) is tensor  # changed in place
    rounds = torch.tensor(coefficients)
    arguments = Muon(
        *map(address, (parameter_BNM, momentum_BNM, grad_BNM, rounds)),
        batch, rows, columns, len(coefficients), decay, kept, step,
    )  # fmt: skip
    run("dg_muon", arguments)
