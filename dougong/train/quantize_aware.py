"""Training with stored formats and run-time rounding in the loop: what ships is what was trained.

Inside `as_served` every parameter holds the value that the official layout would store: FP4 in
blocks of 32 for routed experts, FP8 in 128x128 tiles for linears, BF16 for embedding, head, norms,
gates and compressors. Activations are rounded as the release rounds them: FP8 in front of FP8 and
FP4 matrices and in cache entries, FP4 for the indexer's queries and keys. Gradients taken there
pass every rounding unchanged and are applied to the exact weights (straight-through).
Source: architecture specification 5.1 to 5.3 and 8; infrastructure specification 3.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from dougong.checkpoint import parameters
from dougong.kernels.rounding import e2m1_scale, round_e2m1, round_e4m3
from dougong.model.loading import published_names
from dougong.model.transformer import Transformer

FP4_BLOCK = 32
FP8_TILE = 128
WIDEST_SPAN = 2.0**11  # of FP4 scales within an FP8 tile


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
def as_served(model: Transformer, *, active: bool = True) -> Iterator[None]:
    """Inside, parameters have their stored values and activations are rounded as at run time.

    After it, parameters have their exact values again. Nothing happens if not `active`.
    """
    if not active:
        yield
        return
    build, exact = model.build, {}
    before = build.rounded, build.rounded_inputs
    own, roles = dict(model.named_parameters()), parameter_roles(model)
    try:
        build.rounded = build.rounded_inputs = True
        with torch.no_grad():
            for name, parameter in own.items():
                exact[name] = parameter.detach().clone()
                parameter.copy_(stored_value(exact[name], roles[name]))
        yield
    finally:
        build.rounded, build.rounded_inputs = before
        with torch.no_grad():
            for name, value in exact.items():
                own[name].copy_(value)


@torch.no_grad()
def wide_tiles(model: Transformer) -> int:
    """How many 128x128 tiles of expert matrices FP8 cannot hold with every value a normal number.

    Those in which the largest FP4 scale is more than 2^11 times the smallest: the release's script
    that recasts FP4 to FP8 refuses them. (With subnormal numbers FP8 is exact up to 2^14.)
    """
    roles = parameter_roles(model)
    experts = [p for name, p in model.named_parameters() if roles[name] == "expert"]
    return sum(int((scale_span(p) > WIDEST_SPAN).sum()) for p in experts)


def scale_span(matrix_EOI: Tensor) -> Tensor:
    """Largest FP4 scale over smallest in each 128x128 tile: [E, tiles down, tiles across]."""
    scale_EOG = e2m1_scale(matrix_EOI, FP4_BLOCK)[..., 0]
    rows, groups = FP8_TILE, FP8_TILE // FP4_BLOCK
    padding = (0, -scale_EOG.shape[2] % groups, 0, -scale_EOG.shape[1] % rows)
    largest, smallest = (
        F.pad(scale_EOG, padding, value=value).unflatten(2, (-1, groups)).unflatten(1, (-1, rows))
        for value in (0.0, float("inf"))
    )
    span: Tensor = largest.amax((2, 4)) / smallest.amin((2, 4))
    return span
