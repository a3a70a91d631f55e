"""Training with the weights' stored formats in the loop, so that shipping them loses nothing.

Inside `stored_weights` every parameter holds the value that the official layout would store: FP4 in
blocks of 32 for routed experts, FP8 in 128x128 tiles for linears, BF16 for embedding, head, norms,
gates and compressors. The gradient taken there is applied to the exact weights (straight-through).
Source: architecture specification 5.1 and 8.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from dougong.checkpoint import parameters
from dougong.kernels.rounding import round_e2m1, round_e4m3
from dougong.model.loading import published_names
from dougong.model.transformer import Transformer

FP4_BLOCK = 32
FP8_TILE = 128


def round_fp8_tiles(matrix_OI: Tensor) -> Tensor:
    """The matrix as FP8 E4M3 with one power-of-two scale for each 128x128 tile."""
    rows, columns = matrix_OI.shape
    padded = F.pad(matrix_OI, (0, -columns % FP8_TILE, 0, -rows % FP8_TILE))
    tiles = padded.unflatten(1, (-1, FP8_TILE)).unflatten(0, (-1, FP8_TILE)).transpose(1, 2)
    flat = round_e4m3(tiles.flatten(2), FP8_TILE * FP8_TILE)
    tiles = flat.unflatten(2, (FP8_TILE, FP8_TILE)).transpose(1, 2)
    rounded: Tensor = tiles.flatten(2, 3).flatten(0, 1)[:rows, :columns]
    return rounded


def stored_value(tensor: Tensor, role: str) -> Tensor:
    """What the official layout keeps of a parameter of this role (`checkpoint.parameters`)."""
    if role == "expert":
        return round_e2m1(tensor, FP4_BLOCK)
    if role == "linear":
        return round_fp8_tiles(tensor)
    return tensor if role == "single" else tensor.bfloat16().to(tensor.dtype)


def parameter_roles(model: Transformer) -> dict[str, str]:
    """Each parameter's role: how it is stored."""
    roles = {parameter.name: parameter.role for parameter in parameters(model.config)}
    return {name: roles[published_names(name, p)[0]] for name, p in model.named_parameters()}


@contextmanager
def stored_weights(model: Transformer, *, active: bool = True) -> Iterator[None]:
    """Inside, parameters have their stored values; after it, their exact ones again."""
    exact: dict[str, Tensor] = {}
    own = dict(model.named_parameters()) if active else {}
    roles = parameter_roles(model) if active else {}
    try:
        with torch.no_grad():
            for name, parameter in own.items():
                exact[name] = parameter.detach().clone()
                parameter.copy_(stored_value(exact[name], roles[name]))
        yield
    finally:
        with torch.no_grad():
            for name, value in exact.items():
                own[name].copy_(value)
