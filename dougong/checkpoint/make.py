"""Random checkpoints in the exact shapes, names, files and formats of a release.

Random bits are the codes: nothing is quantized, and only one tensor is in memory. Every tensor has
a generator of its own, seeded by the checkpoint's seed and its name, so that a run that was killed
goes on to the same bytes (numpy keeps the streams of its bit generators from version to version).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dougong.checkpoint.convert import target_config
from dougong.checkpoint.reader import StoredTensor
from dougong.checkpoint.resumable import Job, Progress, Row, write_resumably
from dougong.checkpoint.schema import parameters
from dougong.checkpoint.tensors import Parameter, Shape, Storage
from dougong.checkpoint.writer import CheckpointWriter
from dougong.config import V4Config
from dougong.errors import InputError
from dougong.formats import bf16, fp8_block, ue8m0
from dougong.formats.minifloat import E2M1, E4M3

_SLICE = 2**20  # random numbers looked up at a time: their table stays in cache


@dataclass(frozen=True)
class Made:
    """What was written: where, as which model, weight bytes; how many tensors came from before."""

    folder: Path
    config: V4Config
    nbytes: int
    resumed: int


def cut_config(
    config: V4Config, *, layers: int | None = None, experts: int | None = None
) -> V4Config:
    """`config` with its first `layers` layers, and with `experts` routed experts in each.

    Fewer layers than the model has come without its MTP blocks. Raises InputError for more layers
    than there are, and for fewer experts than a token uses.
    """
    total, used = config.num_hidden_layers, config.num_experts_per_tok
    if layers is not None and not 1 <= layers <= total:
        raise InputError(f"{layers} layers: this model has {total}; choose 1 to {total}.")
    if experts is not None and experts < used:
        raise InputError(f"{experts} experts: a token uses {used}; choose {used} or more.")
    if experts is not None:
        config = replace(config, n_routed_experts=experts)
    if layers is None or layers == total:
        return config
    return replace(
        config,
        num_hidden_layers=layers,
        num_nextn_predict_layers=0,
        compress_ratios=config.compress_ratios[:layers],
        num_hash_layers=min(config.num_hash_layers, layers),
    )


def made_bytes(config: V4Config) -> int:
    """Weight bytes of `config` in the published mixed format."""
    storage = Storage.of(_published(config))
    return sum(spec.nbytes for p in parameters(config) for spec in storage.stored(p))


def make_checkpoint(
    config: V4Config,
    folder: str | Path,
    *,
    seed: int = 0,
    companions: Iterable[Path] = (),
    progress: Progress | None = None,
) -> Made:
    """Writes random weights: FP4 experts, FP8 linears, the rest BF16 or float32; a layer a file.

    Matrices have mean square 1 / columns, so that rows of unit RMS stay so; norms and mHC factors
    are 1, everything else is drawn with the configuration's `initializer_range`. Called again with
    the same arguments it goes on where it stopped. Raises CheckpointError if `folder` is taken, if
    another run's unfinished files are in the way, or if the disk is too small.
    """
    target = _published(config)
    storage = Storage.of(target)
    names = {parameter.name: parameter for parameter in parameters(target)}
    sizes = {name: sum(s.nbytes for s in storage.stored(p)) for name, p in names.items()}

    def write(writer: CheckpointWriter, name: str) -> Row:
        parameter = names[name]
        if storage.form(parameter.role) in ("fp4", "fp8", "BF16"):
            writer.add_bits(name, random_bits(parameter, target, storage, seed))
        else:
            writer.add(name, random_values(parameter, target, seed))
        return {"name": name}

    identity = {"config": target.to_dict(), "seed": seed}
    job = Job(Path(folder), target, "make.jsonl", identity, None, companions)
    done = write_resumably(job, sizes, write, progress)
    return Made(job.folder, target, done.nbytes, done.resumed)


def random_bits(
    parameter: Parameter, config: V4Config, storage: Storage, seed: int
) -> StoredTensor:
    """A tensor in the form "fp4", "fp8" or BF16, with its scales."""
    shape, form, bits = parameter.shape, storage.form(parameter.role), _bits(seed, parameter.name)
    if form == "BF16":
        return StoredTensor("BF16", _normal(_std(parameter, config), shape, bits))
    rows, columns = shape
    if form == "fp4":  # every code is a number
        codes = _bytes((rows, columns // 2), bits)
        grid = rows, columns // 32
        squares = np.square(E2M1.decode(np.arange(16, dtype=np.uint8)), dtype=np.float64)
    else:
        codes = _without_nan(_bytes(shape, bits))
        grid = fp8_block.scale_shape(*shape)
        every = _without_nan(np.arange(256, dtype=np.uint8))
        squares = np.square(E4M3.decode(every), dtype=np.float64)
    scale = _scales(columns**-0.5 / math.sqrt(squares.mean()), grid, bits)
    return StoredTensor("I8" if form == "fp4" else "F8_E4M3", codes, "F8_E8M0", scale)


def random_values(parameter: Parameter, config: V4Config, seed: int) -> NDArray[Any]:
    """A float32 tensor, or a table: for every token id different experts."""
    bits = _bits(seed, parameter.name)
    if parameter.role == "table":
        keys = _bytes((parameter.shape[0], config.n_routed_experts, 4), bits).view(np.uint32)
        chosen = np.argpartition(keys[..., 0], parameter.shape[1] - 1, axis=1)
        return chosen[:, : parameter.shape[1]].astype(np.int64)
    if (std := _std(parameter, config)) == 0:
        return np.ones(parameter.shape, np.float32)
    return bf16.decode(_normal(std, parameter.shape, bits))


def _published(config: V4Config) -> V4Config:
    target = target_config(config, "official", None, "fp4+fp8")
    assert isinstance(target, V4Config)
    return target


def _std(parameter: Parameter, config: V4Config) -> float:
    """The standard deviation to draw with; 0 for what is 1 everywhere (norms, mHC factors)."""
    name, shape = parameter.name, parameter.shape
    if name.endswith(("norm.weight", "_scale")):
        return 0.0
    if name == "embed.weight":
        return 1.0
    is_matrix = len(shape) == 2 and parameter.role != "single"
    return shape[-1] ** -0.5 if is_matrix else config.initializer_range


def _bits(seed: int, name: str) -> np.random.PCG64:
    return np.random.PCG64(np.random.SeedSequence([seed, *name.encode()]))


def _bytes(shape: Shape, bits: np.random.PCG64) -> NDArray[np.uint8]:
    count = math.prod(shape)
    words: NDArray[np.uint64] = bits.random_raw(-(-count // 8))
    return words.astype("<u8", copy=False).view(np.uint8)[:count].reshape(shape)


def _without_nan(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """E4M3 codes with the largest number, 448, in place of NaN; in place."""
    codes -= (codes & 0x7F) == 0x7F
    return codes


def _scales(scale: float, grid: Shape, bits: np.random.PCG64) -> NDArray[np.uint8]:
    """UE8M0 bytes of the powers of two around `scale`, mixed so that its square is their mean."""
    low = math.floor(math.log2(scale))
    share = ((scale / 2.0**low) ** 2 - 1) / 3  # of the upper one: 1 + 3 share is the mean square
    is_upper = _bytes((*grid, 4), bits).view("<u4")[..., 0] < share * 2**32
    return ue8m0.encode(np.float32(2.0) ** (low + is_upper).astype(np.float32))


def _normal(std: float, shape: Shape, bits: np.random.PCG64) -> NDArray[np.uint16]:
    """BF16 codes of normal values, each one of 65,536 equally likely quantiles."""
    count = math.prod(shape)
    if std == 0:
        return np.full(shape, bf16.encode(np.ones(1, np.float32))[0])
    table = bf16.encode(np.float32(std) * _quantiles())
    draws = _bytes((count, 2), bits).view("<u2")[:, 0]
    for low in range(0, count, _SLICE):  # in place: a matrix of the vocabulary has a gigabyte
        draws[low : low + _SLICE] = table[draws[low : low + _SLICE]]
    return draws.reshape(shape)


@cache
def _quantiles() -> NDArray[np.float32]:
    normal, count = NormalDist(), 2**16
    return np.array([normal.inv_cdf((i + 0.5) / count) for i in range(count)], np.float32)
