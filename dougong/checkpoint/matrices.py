"""The matrices of a model, or of a file of tensors, one at a time: what formats are measured on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dougong.checkpoint.locate import find_checkpoint
from dougong.checkpoint.reader import open_checkpoint
from dougong.checkpoint.safetensors_file import SafetensorsFile
from dougong.errors import CheckpointError
from dougong.formats import bf16

_PLAIN = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}  # what needs no scales to be read


@dataclass(frozen=True)
class Matrix:
    """A named matrix; `read` gives its values as float32, anew each time."""

    name: str
    shape: tuple[int, int]
    read: Callable[[], NDArray[np.float32]]


def matrices(source: str | Path) -> list[Matrix]:
    """What `source` offers: a model's linears and experts, or a file's floats of two dims or more.

    source: a folder, shipped name or org/name; or a .safetensors or .npy file. Of more than two
    dims all but the last count as rows. Raises CheckpointError if there is nothing to measure.
    """
    path = Path(source)
    if path.is_file():
        found = _of_npy(path) if path.suffix == ".npy" else _of_safetensors(path)
    else:
        checkpoint = open_checkpoint(find_checkpoint(source))
        quantizable = [
            parameter
            for name in checkpoint.names()
            if (parameter := checkpoint.parameter(name)).role in ("linear", "expert")
        ]
        found = [
            Matrix(p.name, (p.shape[0], p.shape[1]), partial(checkpoint.read, p.name))
            for p in quantizable
        ]
    if not found:
        raise CheckpointError(
            f"{source} holds no matrix of F32, F16 or BF16 values to measure formats on."
        )
    return found


def _of_safetensors(path: Path) -> list[Matrix]:
    file = SafetensorsFile(path)
    counts = {name: math.prod(entry.shape) for name, entry in file.entries.items()}
    return [
        Matrix(name, (counts[name] // entry.shape[-1], entry.shape[-1]), partial(_read, file, name))
        for name, entry in file.entries.items()
        if entry.dtype in _PLAIN and len(entry.shape) >= 2 and counts[name]
    ]


def _read(file: SafetensorsFile, name: str) -> NDArray[np.float32]:
    entry = file.entries[name]
    stored = file.bytes_of(name).view(_PLAIN[entry.dtype])
    values = bf16.decode(stored) if entry.dtype == "BF16" else stored.astype(np.float32)
    return values.reshape(-1, entry.shape[-1])


def _of_npy(path: Path) -> list[Matrix]:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as problem:
        raise CheckpointError(f"{path} cannot be read: {problem.strerror}.") from None
    except (ValueError, EOFError):  # numpy's own words advise to read it as a pickle
        raise CheckpointError(f"{path} is not a readable .npy file of plain numbers.") from None
    if array.ndim < 2 or not array.size or not np.issubdtype(array.dtype, np.floating):
        return []
    rows: NDArray[np.floating] = array.reshape(-1, array.shape[-1])
    shape = (rows.shape[0], rows.shape[1])
    return [Matrix(path.stem, shape, lambda: rows.astype(np.float32))]
