"""Whole checkpoints: writing one from tensors, and from one layout or format to another."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from dougong.checkpoint.layouts import Layout
from dougong.checkpoint.reader import Checkpoint, StoredTensor, open_checkpoint, without_mtp
from dougong.checkpoint.tensors import TORCH_DTYPES
from dougong.checkpoint.writer import DEFAULT_SHARD_BYTES, CheckpointWriter, open_writer
from dougong.config import ModelConfig, QuantizationConfig, V4Config
from dougong.errors import InputError

# What is asked for -> how routed experts are stored; every other linear is FP8.
QUANTIZATIONS = {"fp4+fp8": "fp4", "fp8": "fp8"}
# Copied along by `convert`, because a checkpoint without them cannot talk.
COMPANIONS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
)
_LARGEST_PLAIN_SCALE = 127 + 118  # 448 * 2**118 is a finite float32


@dataclass(frozen=True)
class Written:
    """What was written: where, as which model, weight bytes, and the tensors left out (MTP)."""

    folder: Path
    config: ModelConfig
    nbytes: int
    left_out: tuple[str, ...]


def write_checkpoint(
    folder: str | Path,
    config: ModelConfig,
    tensors: Iterable[tuple[str, NDArray[Any]]],
    *,
    layout: Layout = "official",
    dtype: str | None = None,
    quantize: str | None = None,
    shard_bytes: int = DEFAULT_SHARD_BYTES,
    companions: Iterable[Path] = (),
) -> Written:
    """Writes a checkpoint from (canonical name, float32 or int64 array) pairs in any order.

    layout:    "official", or "transformers" (experts merged, without MTP: see `Written.left_out`).
    dtype:     of everything that is not quantized or float32 by nature: "float32", "bfloat16" or
               "float16"; None is the configuration's, and bfloat16 beside quantized weights.
    quantize:  "fp4+fp8" (the published mixed format), "fp8" (the Base models'), or None.
    One tensor at a time is in memory. `folder` appears complete or not at all; it must not exist.
    Raises CheckpointError for tensors that are missing, unknown, mis-shaped or not finite, or when
    the disk refuses; InputError for options that exclude each other.
    """
    target = target_config(config, layout, dtype, quantize)
    with open_writer(
        Path(folder), target, layout, shard_bytes=shard_bytes, companions=companions
    ) as writer:
        for name, values in tensors:
            writer.add(name, values)
    return Written(Path(folder), target, writer.nbytes, tuple(writer.left_out))


def convert(
    source: str | Path,
    folder: str | Path,
    *,
    layout: Layout = "official",
    dtype: str | None = None,
    quantize: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    shard_bytes: int = DEFAULT_SHARD_BYTES,
) -> Written:
    """Writes the checkpoint in `source` to `folder` in another layout or format.

    Options as in `write_checkpoint`; with neither dtype nor quantize, an official checkpoint keeps
    its format. Tensors whose format does not change are copied bit for bit. `progress` is called
    with the bytes done and the bytes to do, both of the source. The tokenizer's files go along.
    """
    checkpoint = open_checkpoint(source)
    keeps_format = layout == "official" and dtype is None and quantize is None
    target = (
        checkpoint.config
        if keeps_format
        else target_config(checkpoint.config, layout, dtype, quantize)
    )
    companions = [path for name in COMPANIONS if (path := Path(source) / name).is_file()]
    sizes = {name: checkpoint.info(name).nbytes for name in checkpoint.names()}
    done, total = 0, sum(sizes.values())
    with open_writer(
        Path(folder), target, layout, shard_bytes=shard_bytes, companions=companions
    ) as writer:
        for name, size in sizes.items():
            _copy(checkpoint, writer, name)
            done += size
            if progress is not None:
                progress(done, total)
    return Written(Path(folder), target, writer.nbytes, tuple(writer.left_out))


def target_config(
    config: ModelConfig, layout: Layout, dtype: str | None, quantize: str | None
) -> ModelConfig:
    """`config` as a checkpoint of that layout, dtype and quantization has to say it.

    Raises InputError for a combination that does not exist.
    """
    if layout not in ("official", "transformers"):
        raise InputError(f"layout {layout!r} is not written; choose official or transformers.")
    if dtype is not None and dtype not in TORCH_DTYPES:
        raise InputError(f"dtype {dtype!r} is not known; choose {', '.join(TORCH_DTYPES)}.")
    if quantize is not None and quantize not in QUANTIZATIONS:
        raise InputError(f"quantize {quantize!r} is not known; choose {', '.join(QUANTIZATIONS)}.")
    if layout == "transformers" and quantize is not None:
        raise InputError(
            "The transformers layout is never quantized; leave quantize out, or choose official."
        )
    torch_dtype = dtype or ("bfloat16" if quantize else config.torch_dtype)
    if isinstance(config, V4Config):
        changed = replace(
            config,
            torch_dtype=torch_dtype,
            quantization_config=QuantizationConfig() if quantize else None,
            expert_dtype=QUANTIZATIONS[quantize] if quantize else None,
        )
        return without_mtp(changed) if layout == "transformers" else changed
    if layout == "transformers" or quantize == "fp4+fp8":
        raise InputError("A V3 model has the official layout only, as floats or quantized to fp8.")
    quantization = QuantizationConfig(scale_fmt=None) if quantize else None
    return replace(config, torch_dtype=torch_dtype, quantization_config=quantization)


def _copy(checkpoint: Checkpoint, writer: CheckpointWriter, name: str) -> None:
    stored = checkpoint.stored(name)
    if writer.takes_bits(name, stored) and is_plainly_finite(stored):
        writer.add_bits(name, stored)
        checkpoint.release(name)
    else:
        writer.add(name, checkpoint.read(name))


def is_plainly_finite(stored: StoredTensor) -> bool:
    """Whether codes and scales show, without decoding, that no value is NaN or infinite."""
    if stored.scale is None or stored.scale_dtype != "F8_E8M0":
        return False
    has_nan = stored.dtype == "F8_E4M3" and bool(((stored.data & 0x7F) == 0x7F).any())
    return not has_nan and bool((stored.scale <= _LARGEST_PLAIN_SCALE).all())
