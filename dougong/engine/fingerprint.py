"""What a stored state depends on, in 32 bytes: the weights themselves and how they are computed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import dougong
from dougong.kernels.cpu.library import ABI
from dougong.model.attention import Attention
from dougong.model.loading import stored_matrices
from dougong.model.transformer import Transformer

HASHING_THREADS = 8  # hashlib lets other threads run; mapped weights come from the disk


def fingerprint(model: Transformer, *, approximate: bool = False) -> bytes:
    """32 bytes that differ whenever the same tokens could give other bits of state.

    `approximate`: the states are, so that no exact engine may find them.
    Reads every weight once, about a second a GiB and core: names, sizes and dates of files are
    easily the same for two models.
    """
    about = [*_computed_with(model), approximate]
    digest = hashlib.blake2b(repr(about).encode(), digest_size=32)
    weights = sorted(_weights(model), key=lambda weight: weight[0])
    with ThreadPoolExecutor(HASHING_THREADS) as pool:
        for part in pool.map(lambda weight: _digest(*weight), weights):
            digest.update(part)
    return digest.digest()


def _computed_with(model: Transformer) -> list[object]:
    """Everything but the weights that decides about the bits."""
    build, layout = model.build, model.layout
    operators = [getattr(build.ops, field.name) for field in fields(build.ops)]
    operators = [getattr(operator, "func", operator) for operator in operators]  # of a partial
    return [
        dougong.__version__, torch.__version__, ABI, model.config,
        [f"{operator.__module__}.{operator.__qualname__}" for operator in operators],
        str(model.device), build.dtype, build.rounded, build.rounded_inputs,
        layout.layers, layout.block_bytes, layout.ring_bytes,
        [module.dense for module in model.modules() if isinstance(module, Attention)],
    ]  # fmt: skip


def _weights(model: Transformer) -> Iterator[tuple[str, NDArray[Any]]]:
    """Every array of the model under a name of its own."""
    for name, matrix in stored_matrices(model):
        for i, array in enumerate([*matrix.data, *matrix.scale]):
            yield f"{name}.{i}.{matrix.dtype}", array
    for name, tensor in model.state_dict().items():
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        yield f"{name}.{tensor.dtype}", flat.view(torch.uint8).numpy()


def _digest(name: str, array: NDArray[Any]) -> bytes:
    digest = hashlib.blake2b(f"{name} {array.shape}".encode(), digest_size=32)
    digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    return digest.digest()
