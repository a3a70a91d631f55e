"""Quantizing a whole checkpoint tensor by tensor, resumably, with a report on each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from dougong.checkpoint.convert import COMPANIONS, is_plainly_finite, target_config
from dougong.checkpoint.encoding import as_stored
from dougong.checkpoint.journal import fingerprint
from dougong.checkpoint.reader import Checkpoint, StoredTensor, open_checkpoint
from dougong.checkpoint.resumable import SYNC_S, Job, write_resumably
from dougong.checkpoint.tensors import Parameter
from dougong.checkpoint.writer import DEFAULT_SHARD_BYTES, CheckpointWriter
from dougong.config import ModelConfig
from dougong.errors import InputError
from dougong.formats import (
    FP4,
    Format,
    Quantized,
    dequantize,
    fidelity,
    find_format,
    fp4_block,
    quantize,
    ue8m0,
)
from dougong.formats.measure import lossy_tiles

REPORT_FILE = "quantize_report.jsonl"
# The formats of routed experts and of linears that a published layout can hold, and what
# `target_config` calls the two together. MXFP4 is stored as FP4 is; its scales are chosen as OCP
# says and may saturate.
STORABLE = {
    ("fp4_row32_ue8m0", "fp8_block128_ue8m0"): "fp4+fp8",
    ("mxfp4", "fp8_block128_ue8m0"): "fp4+fp8",
    ("fp8_block128_ue8m0", "fp8_block128_ue8m0"): "fp8",
    ("bf16", "bf16"): None,
}


@dataclass(frozen=True)
class TensorReport:
    """What became of one tensor.

    format:       of its values now; "" for what is never quantized (norms, router, embedding).
    kept:         whether its bits were copied because they were in that format already.
    squares:      the sum of the squares of its values, and of what they changed by.
    saturated:    values beyond the format's range.
    tiles:        128x128 tiles of an FP4 tensor; `lossy_tiles` of them span scales more than 2**11
                  apart, so that they do not fold into FP8 without loss by the published rule.
    """

    name: str
    role: str
    shape: list[int]
    format: str = ""
    kept: bool = False
    squares: float = 0.0
    error_squares: float = 0.0
    saturated: int = 0
    tiles: int = 0
    lossy_tiles: int = 0


@dataclass(frozen=True)
class QuantizedCheckpoint:
    """What was written: where, as which model, weight bytes; how many tensors came from before."""

    folder: Path
    config: ModelConfig
    nbytes: int
    tensors: tuple[TensorReport, ...]
    resumed: int


def quantize_checkpoint(
    source: str | Path,
    folder: str | Path,
    *,
    experts: str = "fp4",
    linears: str = "fp8",
    simulate: bool = False,
    progress: Callable[[int, int], None] | None = None,
    shard_bytes: int = DEFAULT_SHARD_BYTES,
    sync_s: float = SYNC_S,
) -> QuantizedCheckpoint:
    """Writes the checkpoint in `source` to `folder` with routed experts and linears quantized.

    experts, linears: names of number formats; what is in that format already is copied bit by bit.
    simulate:         write the values that the formats leave as float32 instead, for formats that
                      the official layout cannot hold. Any pair of formats will do then.
    sync_s:           how often finished tensors are made safe; a run that is killed loses no more.

    One tensor at a time is in memory. Called again with the same arguments it goes on where it
    stopped. Raises InputError for formats that cannot be stored, CheckpointError if `folder` is
    taken, if an unfinished run with other arguments is in the way, or if the disk refuses.
    """
    source, folder = Path(source), Path(folder).absolute()
    formats = {"expert": find_format(experts), "linear": find_format(linears)}
    checkpoint = open_checkpoint(source)
    target = _target(checkpoint.config, formats, simulate)
    identity = {
        "source": fingerprint(source),
        "formats": {role: format.name for role, format in formats.items()},
        "simulate": simulate,
        "shard_bytes": shard_bytes,
    }
    companions = [path for name in COMPANIONS if (path := source / name).is_file()]
    job = Job(
        folder, target, REPORT_FILE, identity, shard_bytes, companions,
        keep_journal=True, sync_s=sync_s,
    )  # fmt: skip
    sizes = {name: checkpoint.info(name).nbytes for name in checkpoint.names()}
    conversion = _Conversion(checkpoint, formats, simulate)
    done = write_resumably(job, sizes, conversion.convert, progress)
    reports = tuple(TensorReport(**row) for row in done.rows)
    return QuantizedCheckpoint(folder, target, done.nbytes, reports, done.resumed)


def _target(config: ModelConfig, formats: dict[str, Format], simulate: bool) -> ModelConfig:
    """The configuration of the result; raises InputError for formats that it cannot hold."""
    if simulate:
        return target_config(config, "official", "float32", None)
    experts, linears = formats["expert"].name, formats["linear"].name
    if (experts, linears) not in STORABLE:
        raise InputError(
            f"no published layout holds {experts} experts with {linears} linears; choose experts "
            "fp4, mxfp4 or fp8 with linears fp8, or bf16 for both, or add --simulate to write the "
            "rounded values as float32."
        )
    quantization = STORABLE[experts, linears]
    return target_config(config, "official", None if quantization else "bfloat16", quantization)


@dataclass(frozen=True)
class _Conversion:
    """From one checkpoint to the writer of another, by role."""

    checkpoint: Checkpoint
    formats: dict[str, Format]
    simulate: bool

    def convert(self, writer: CheckpointWriter, name: str) -> dict[str, Any]:
        """Writes one tensor in its new form and says what that changed: a `TensorReport`."""
        return asdict(self._convert(writer, self.checkpoint.parameter(name)))

    def _convert(self, writer: CheckpointWriter, parameter: Parameter) -> TensorReport:
        name = parameter.name
        report = TensorReport(name, parameter.role, list(parameter.shape))
        format = self.formats.get(parameter.role)
        if format is None:
            writer.add(name, self.checkpoint.read(name))
            return report
        report = replace(report, format=format.name)
        stored = self.checkpoint.stored(name)
        if writer.takes_bits(name, stored) and is_plainly_finite(stored):
            writer.add_bits(name, stored)
            tiles, lossy = _tiles_of_stored(stored)
            self.checkpoint.release(name)
            return replace(report, kept=True, tiles=tiles, lossy_tiles=lossy)
        values = self.checkpoint.read(name)
        quantized = quantize(values, format)
        loss, (tiles, lossy) = fidelity(values, quantized), lossy_tiles(quantized)
        if not self.simulate and format.scale != "none":
            codes, scale = as_stored(quantized, writer.scale_dtype)
            dtype = "I8" if format.element.bits == 4 else "F8_E4M3"
            writer.add_bits(name, StoredTensor(dtype, codes, writer.scale_dtype, scale))
        else:
            del values  # three forms of a large tensor at once would be one too many
            writer.add(name, dequantize(quantized))
        return replace(
            report, squares=loss.squares, error_squares=loss.error_squares,
            saturated=loss.saturated, tiles=tiles, lossy_tiles=lossy,
        )  # fmt: skip


def _tiles_of_stored(stored: StoredTensor) -> tuple[int, int]:
    """The tiles of bits that were copied; FP8 ones have none to fold."""
    if stored.dtype != "I8" or stored.scale is None:
        return 0, 0
    scale = ue8m0.decode(stored.scale)
    return lossy_tiles(Quantized(FP4, fp4_block.unpack(stored.data), scale))
