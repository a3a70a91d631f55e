"""Checkpoints, read lazily: checked whole from their headers, then one tensor at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dougong.checkpoint.folder import open_files
from dougong.checkpoint.layouts import Layout, LayoutPlan, layout_of, plan_layout
from dougong.checkpoint.safetensors_file import Entry, SafetensorsFile
from dougong.checkpoint.schema import parameters
from dougong.checkpoint.tensors import DTYPE_BYTES, Parameter, Role, Shape, Storage, check_table
from dougong.config import ModelConfig, V4Config, load_config
from dougong.errors import CheckpointError
from dougong.formats import bf16, fp4_block, fp8_block, ue8m0

Files = Mapping[str, SafetensorsFile]

# Little-endian, as the format demands. What numpy has no type for is read as its bit patterns.
_NUMPY = {
    "I64": "<i8",
    "I32": "<i4",
    "F32": "<f4",
    "BF16": "<u2",
    "F16": "<f2",
    "I8": "u1",
    "F8_E4M3": "u1",
    "F8_E8M0": "u1",
}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """How a parameter is stored: its own shape, the dtype in the file, the bytes with scales."""

    name: str
    shape: Shape
    dtype: str
    role: Role
    nbytes: int


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A parameter's bits as they lie in the file, mapped and not copied: do not write to them.

    BF16 is uint16; E4M3, packed FP4 and UE8M0 are uint8. `scale` is None where there is none.
    """

    dtype: str
    data: NDArray[Any]
    scale_dtype: str | None = None
    scale: NDArray[Any] | None = None


@dataclass(frozen=True, slots=True)
class Extent:
    """Bytes `begin` to `end` of a file."""

    path: Path
    begin: int
    end: int


class Checkpoint:
    """A checked checkpoint folder. Names are the published ones, whatever the file's layout.

    config:        as the weights are: without MTP blocks and quantization where the file has none.
    layout:        see `layouts`.
    mtp_left_out:  whether config.json announces MTP blocks that the layout does not carry.
    """

    def __init__(self, folder: Path, config: ModelConfig, files: Files) -> None:
        """Use `open_checkpoint`. Raises CheckpointError unless `files` hold what `config` says."""
        self.folder = folder
        self.layout: Layout = layout_of(files.keys())
        self.config = _as_stored(config, self.layout, files)
        self.mtp_left_out = self.config.num_nextn_predict_layers < config.num_nextn_predict_layers
        self._files = files
        self._parameters = {parameter.name: parameter for parameter in parameters(self.config)}
        self._plan = plan_layout(
            self._parameters.values(),
            Storage.of(self.config),
            self.layout,
            self.config.n_routed_experts,
        )
        _check_tensors(folder, self._plan, files)

    def names(self) -> list[str]:
        """The canonical names of all parameters and tables, in the schema's order."""
        return list(self._parameters)

    def parameter(self, name: str) -> Parameter:
        """A parameter's schema entry; raises CheckpointError for a name the model does not have."""
        if name not in self._parameters:
            raise CheckpointError(f"{self.folder} has no tensor {name!r}.")
        return self._parameters[name]

    def info(self, name: str) -> TensorInfo:
        """How a parameter is stored; raises CheckpointError for an unknown name."""
        parameter, entry = self.parameter(name), self._entry(name)
        size = math.prod(parameter.shape) * DTYPE_BYTES[entry.dtype]
        if entry.dtype == "I8":
            size //= 2
        if (scale := self._plan.scales.get(name)) is not None:
            scale_entry = self._files[scale].entries[scale]
            size += scale_entry.end - scale_entry.begin
        return TensorInfo(name, parameter.shape, entry.dtype, parameter.role, size)

    def stored(self, name: str) -> StoredTensor:
        """A parameter's bits as a view of the mapped file; raises CheckpointError if unknown."""
        parameter, piece, entry = self.parameter(name), self._plan.pieces[name], self._entry(name)
        scale_name = self._plan.scales.get(name)
        if scale_name is None:
            begin = piece.start * DTYPE_BYTES[entry.dtype]
            size = math.prod(parameter.shape) * DTYPE_BYTES[entry.dtype]
            data = self._files[piece.tensor].bytes_of(piece.tensor, begin, begin + size)
            return StoredTensor(entry.dtype, _view(data, entry.dtype, parameter.shape))
        codes = _view(self._files[name].bytes_of(name), entry.dtype, entry.shape)
        file = self._files[scale_name]
        scale = file.entries[scale_name]
        scales = _view(file.bytes_of(scale_name), scale.dtype, scale.shape)
        return StoredTensor(entry.dtype, codes, scale.dtype, scales)

    def read(self, name: str) -> NDArray[Any]:
        """A parameter's exact values: a new float32 array, or int64 for a table of expert ids.

        Raises CheckpointError for an unknown name, for NaN or infinity, and for a table whose ids
        are out of range or repeated in a row.
        """
        parameter, stored = self.parameter(name), self.stored(name)
        if parameter.role == "table":
            table = stored.data.astype(np.int64)
            check_table(f"{self._path(name)}: tensor {name!r}", table, self.config.n_routed_experts)
            return table
        values = decode(stored)
        self.release(name)
        if not np.isfinite(values).all():
            raise CheckpointError(
                f"{self._path(name)}: tensor {name!r} holds NaN or infinity; expected finite "
                "weights. The file is damaged, or training diverged."
            )
        return values

    def release(self, name: str) -> None:
        """Tells the system that a tensor's mapped pages are not needed for now (`read` does)."""
        tensor = self._plan.pieces[name].tensor
        self._files[tensor].release(tensor)

    def extents(self, name: str) -> list[Extent]:
        """Where the arrays of `stored` lie: the data, then the scales if there are any."""
        parameter, piece, entry = self.parameter(name), self._plan.pieces[name], self._entry(name)
        begin = entry.begin + piece.start * DTYPE_BYTES[entry.dtype]
        size = math.prod(parameter.shape) * DTYPE_BYTES[entry.dtype]
        if entry.dtype == "I8":
            size //= 2
        found = [Extent(self._path(name), begin, begin + size)]
        if (scale := self._plan.scales.get(name)) is not None:
            file = self._files[scale]
            found.append(Extent(file.path, file.entries[scale].begin, file.entries[scale].end))
        return found

    def read_ahead(self, name: str, *, scales_only: bool = False) -> None:
        """Has the system begin to read what `stored` maps, or no more of it than the scales."""
        data, *scales = self.extents(name)
        if not scales_only:
            self._files[self._plan.pieces[name].tensor].read_ahead(data.begin, data.end)
        for extent in scales:
            self._files[self._plan.scales[name]].read_ahead(extent.begin, extent.end)

    def _entry(self, name: str) -> Entry:
        tensor = self._plan.pieces[name].tensor
        return self._files[tensor].entries[tensor]

    def _path(self, name: str) -> Path:
        return self._files[self._plan.pieces[name].tensor].path


def open_checkpoint(folder: str | Path) -> Checkpoint:
    """The checkpoint in `folder`: config.json, and model.safetensors or the shards of its index.

    Reads headers only. Raises ConfigError for the configuration and CheckpointError for missing,
    extra, mis-shaped, mis-typed, truncated or overlapping tensors, naming file and tensor.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder; expected one with config.json in it.")
    config = load_config(folder / "config.json")
    return Checkpoint(folder, config, open_files(folder))


def without_mtp(config: ModelConfig) -> ModelConfig:
    """`config` of the same model without its MTP blocks."""
    if isinstance(config, V4Config):
        ratios = config.compress_ratios[: config.num_hidden_layers]
        return replace(config, num_nextn_predict_layers=0, compress_ratios=ratios)
    return replace(config, num_nextn_predict_layers=0)


def _as_stored(config: ModelConfig, layout: Layout, files: Files) -> ModelConfig:
    """`config`, changed where the layout or the files decide what config.json leaves open."""
    if isinstance(config, V4Config):
        if layout != "official":
            return without_mtp(replace(config, quantization_config=None, expert_dtype=None))
        if config.quantized and config.expert_dtype is None:
            return replace(config, expert_dtype=_found_expert_dtype(files))
    elif not any(name.startswith(f"model.layers.{config.num_hidden_layers}.") for name in files):
        return without_mtp(config)  # as transformers writes V3
    return config


def _found_expert_dtype(files: Files) -> str:
    """Day-0 releases do not say expert_dtype (trap 11); their experts' dtype does."""
    name = "layers.0.ffn.experts.0.w1.weight"
    is_fp8 = name in files and files[name].entries[name].dtype == "F8_E4M3"
    return "fp8" if is_fp8 else "fp4"


def _check_tensors(folder: Path, plan: LayoutPlan, files: Files) -> None:
    missing = [name for name in plan.slots if name not in files]
    if missing:
        slot = plan.slots[missing[0]]
        more = f" (and {len(missing) - 1:,} more tensors)" if len(missing) > 1 else ""
        raise CheckpointError(
            f"{folder}: tensor {missing[0]!r} is missing{more}; config.json asks for "
            f"{slot.dtypes[0]} {list(slot.shape)}."
        )
    for name, file in files.items():
        entry, expected = file.entries[name], plan.slots.get(name)
        where = f"{file.path}: tensor {name[:200]!r}"
        if expected is None:
            raise CheckpointError(f"{where} is not part of the model that config.json describes.")
        if entry.shape != expected.shape:
            raise CheckpointError(
                f"{where} has shape {list(entry.shape)}; expected {list(expected.shape)}."
            )
        if entry.dtype not in expected.dtypes:
            raise CheckpointError(
                f"{where} is stored as {entry.dtype}; expected {' or '.join(expected.dtypes)}."
            )


def _view(data: NDArray[np.uint8], dtype: str, shape: Shape) -> NDArray[Any]:
    return data.view(_NUMPY[dtype]).reshape(shape)


def decode(stored: StoredTensor) -> NDArray[np.float32]:
    """The exact float32 values of a stored tensor (of V3's float32 scales: one rounding)."""
    if stored.scale is not None:
        scale = stored.scale
        is_ue8m0 = stored.scale_dtype == "F8_E8M0"
        scales = ue8m0.decode(scale) if is_ue8m0 else np.asarray(scale, np.float32)
        if stored.dtype == "I8":
            return fp4_block.dequantize(stored.data, scales)
        return fp8_block.dequantize(stored.data, scales)
    if stored.dtype == "BF16":
        return bf16.decode(stored.data)
    return np.array(stored.data, np.float32)
