"""One safetensors file: its header checked entry by entry, its tensors as memory-mapped bytes.

Ours, because the header has to be refused in one sentence and before anything large is allocated,
and because FP8 and BF16 have to be readable without torch.
Source: the format's description, https://github.com/huggingface/safetensors.
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dougong.checkpoint.tensors import DTYPE_BYTES, Shape
from dougong.config_json import parse_json_object
from dougong.errors import CheckpointError

MAX_HEADER_BYTES = 8 * 2**20
MAX_TENSORS = 100_000
MAX_RANK = 8
MAX_NAME = 500
_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of a file: `begin` and `end` count bytes from the start of the file."""

    dtype: str
    shape: Shape
    begin: int
    end: int


class SafetensorsFile:
    """A checked safetensors file; `entries` by name. Opening it reads the header only."""

    def __init__(self, path: Path) -> None:
        """Raises CheckpointError, naming file and tensor, for any defect of the header."""
        self.path = path
        self.entries = _read_entries(path)

    def bytes_of(self, name: str, begin: int = 0, end: int | None = None) -> NDArray[np.uint8]:
        """The bytes of a tensor, or its bytes `begin` to `end`: a view of the mapped file."""
        entry = self.entries[name]
        last = entry.end if end is None else entry.begin + end
        return np.frombuffer(self._map, np.uint8)[entry.begin + begin : last]

    def release(self, name: str) -> None:
        """Gives a tensor's pages back to the system, which keeps them as cache if it can.

        Views of it stay valid. Without this a process that copies a model holds it twice.
        """
        entry, page = self.entries[name], mmap.PAGESIZE
        begin, end = -(-entry.begin // page) * page, entry.end // page * page
        if end > begin:
            self._map.madvise(mmap.MADV_DONTNEED, begin, end - begin)

    def read_ahead(self, begin: int, end: int) -> None:
        """Has the system begin to read these bytes: ten times faster than fault by fault."""
        begin = begin // mmap.PAGESIZE * mmap.PAGESIZE
        if end > begin:
            self._map.madvise(mmap.MADV_WILLNEED, begin, end - begin)

    @cached_property
    def _map(self) -> mmap.mmap:
        try:
            with self.path.open("rb") as file:
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as problem:
            raise CheckpointError(f"{self.path} cannot be mapped: {problem.strerror}.") from None


def _read_entries(path: Path) -> dict[str, Entry]:
    try:
        if not path.is_file():
            raise CheckpointError(f"{path} is missing or not a regular file.")
        with path.open("rb") as file:
            size = path.stat().st_size
            header_bytes = _header_length(path, file.read(_LENGTH.size), size)
            text = file.read(header_bytes)
    except OSError as problem:
        raise CheckpointError(f"{path} cannot be read: {problem.strerror}.") from None
    header = parse_json_object(text, f"{path}: the header", CheckpointError)
    header.pop("__metadata__", None)
    if len(header) > MAX_TENSORS:
        raise CheckpointError(f"{path} lists {len(header):,} tensors; at most {MAX_TENSORS:,}.")
    start = _LENGTH.size + header_bytes
    entries = {name: _entry(path, name, value, start, size) for name, value in header.items()}
    _check_tiling(path, entries, start, size)
    return entries


def _header_length(path: Path, first: bytes, size: int) -> int:
    """The header's length, from the file's first eight bytes."""
    if len(first) < _LENGTH.size:
        raise CheckpointError(f"{path} has {size} bytes: too short for a safetensors file.")
    length: int = _LENGTH.unpack(first)[0]
    room = size - _LENGTH.size
    if not 2 <= length <= min(room, MAX_HEADER_BYTES):
        raise CheckpointError(
            f"{path}: the header says it is {length:,} bytes long; expected 2 to "
            f"{min(room, MAX_HEADER_BYTES):,}. The file is truncated or no safetensors file."
        )
    return length


def _entry(path: Path, name: str, value: object, start: int, size: int) -> Entry:
    where = f"{path}: tensor {name[:MAX_NAME]!r}"
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(f"{where}: expected dtype, shape and data_offsets, nothing else.")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise CheckpointError(
            f"{where}: dtype {str(dtype)[:40]} is unknown here; expected {', '.join(DTYPE_BYTES)}."
        )
    if not _are_counts(shape) or len(shape) > MAX_RANK:
        raise CheckpointError(f"{where}: its shape is not a list of up to {MAX_RANK} counts.")
    if not _are_counts(offsets) or len(offsets) != 2:
        raise CheckpointError(f"{where}: its data_offsets are not two counts.")
    begin, end = offsets
    wanted = math.prod(shape) * DTYPE_BYTES[dtype]
    if end - begin != wanted:
        raise CheckpointError(
            f"{where}: {dtype} {shape} needs {wanted:,} bytes; data_offsets give {end - begin:,}."
        )
    if begin % DTYPE_BYTES[dtype]:
        raise CheckpointError(
            f"{where}: offset {begin} is misaligned; {dtype} needs a multiple of "
            f"{DTYPE_BYTES[dtype]}."
        )
    if start + end > size:
        raise CheckpointError(
            f"{where}: ends at byte {start + end:,}, but the file has {size:,}: it is truncated."
        )
    return Entry(dtype, tuple(shape), start + begin, start + end)


def _are_counts(values: object) -> bool:
    """Whether `values` is a list of integers from 0 to 2**48 (true and false are none)."""
    return isinstance(values, list) and all(
        type(value) is int and 0 <= value <= 2**48 for value in values
    )


def _check_tiling(path: Path, entries: dict[str, Entry], start: int, size: int) -> None:
    """The tensors must fill the file: no overlap, no hole, no bytes after the last."""
    position, previous = start, "the header"
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin < position:
            raise CheckpointError(f"{path}: tensor {name!r} overlaps {previous!r}.")
        if entry.begin > position:
            raise CheckpointError(
                f"{path}: {entry.begin - position:,} bytes before tensor {name!r} belong to none."
            )
        position, previous = entry.end, name
    if position != size:
        raise CheckpointError(
            f"{path}: {size - position:,} bytes after the last tensor belong to none."
        )
