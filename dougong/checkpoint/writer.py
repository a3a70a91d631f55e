"""Checkpoints, written a tensor at a time and put in place in one step.

All sizes follow from the configuration, so headers are written first and each tensor goes to its
place in its file when it comes, in any order. Nothing has its final name before all are there.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dougong.checkpoint.encoding import encode
from dougong.checkpoint.folder import INDEX_FILE, SINGLE_FILE
from dougong.checkpoint.layouts import Layout, plan_layout
from dougong.checkpoint.reader import StoredTensor
from dougong.checkpoint.schema import parameters
from dougong.checkpoint.tensors import DTYPE_BYTES, Parameter, Storage, TensorSpec
from dougong.config import ModelConfig
from dougong.errors import CheckpointError

DEFAULT_SHARD_BYTES = 5 * 10**9
MAX_SHARD_TENSORS = 50_000  # keeps headers below what readers accept, ours included
_ALIGNMENT = 8


class CheckpointWriter:
    """The files of one checkpoint while they are being filled; made by `open_writer`."""

    def __init__(
        self, folder: Path, config: ModelConfig, layout: Layout, shard_bytes: int | None
    ) -> None:
        """Creates the files in `folder`, which exists: headers, and room for the data.

        A file that is there already, with the same header and size, is kept with what it holds.
        """
        self.left_out: list[str] = []
        self._folder, self._config, self._layout = folder, config, layout
        self._storage = Storage.of(config)
        self._missing = {parameter.name: parameter for parameter in parameters(config)}
        self._known = frozenset(self._missing)
        self._plan = plan_layout(
            self._missing.values(), self._storage, layout, config.n_routed_experts
        )
        specs = [
            TensorSpec(name, slot.shape, slot.dtypes[0]) for name, slot in self._plan.slots.items()
        ]
        self.nbytes = sum(spec.nbytes for spec in specs)
        self._dtypes = {spec.name: spec.dtype for spec in specs}
        self._places: dict[str, tuple[Path, int]] = {}
        self._unsynced: set[Path] = set()
        self._create_files(_shards(specs, shard_bytes))

    @property
    def scale_dtype(self) -> str:
        """In which dtype the scales of FP8 tiles are stored."""
        return self._storage.scale

    def add(self, name: str, values: NDArray[Any]) -> None:
        """Encodes and writes one parameter: float32, or integers for a table, of its full shape.

        MTP blocks, which the transformers layout has no place for, are noted in `left_out`. Raises
        CheckpointError for an unknown or repeated name and for values that cannot be stored.
        """
        if (parameter := self._take(name)) is not None:
            form, scale_dtype = self._storage.form(parameter.role), self._storage.scale
            experts = self._config.n_routed_experts
            self._write(name, *encode(parameter, values, form, scale_dtype, experts))

    def takes_bits(self, name: str, stored: StoredTensor) -> bool:
        """Whether these bits are in the very form in which `name` is to be written."""
        piece, scale = self._plan.pieces.get(name), self._plan.scales.get(name)
        return (
            piece is not None
            and self._dtypes[piece.tensor] == stored.dtype
            and (None if scale is None else self._dtypes[scale]) == stored.scale_dtype
        )

    def add_bits(self, name: str, stored: StoredTensor) -> None:
        """Copies one parameter as it is; only where `takes_bits` says so."""
        if self._take(name) is not None:
            self._write(name, *(x for x in (stored.data, stored.scale) if x is not None))

    def skip(self, name: str) -> None:
        """Counts a parameter as written: an earlier run did it, into the files that were kept."""
        self._take(name)

    def sync(self) -> None:
        """Returns when all that was written since the last call is on the disk."""
        for path in self._unsynced:
            with path.open("r+b") as file:
                os.fsync(file.fileno())
        self._unsynced.clear()

    def finish(self) -> None:
        """Writes index and config.json; raises CheckpointError if a parameter never came."""
        if self._missing:
            name = next(iter(self._missing))
            raise CheckpointError(
                f"tensor {name!r} was not given, nor were {len(self._missing) - 1:,} others; "
                "a checkpoint must be complete."
            )
        files = {path for path, _ in self._places.values()}
        if len(files) > 1:
            names = {name: path.name for name, (path, _) in self._places.items()}
            index = {"metadata": {"total_size": self.nbytes}, "weight_map": names}
            _write_json(self._folder / INDEX_FILE, index)
        _write_json(self._folder / "config.json", self._config.to_dict())
        self.sync()

    def _take(self, name: str) -> Parameter | None:
        """The parameter to be written, crossed off; None if it has no place in this layout."""
        if name in self._missing:
            return self._missing.pop(name)
        if name in self._known:
            raise CheckpointError(f"tensor {name!r} was given twice.")
        if self._layout == "transformers" and name.startswith("mtp."):
            self.left_out.append(name)
            return None
        raise CheckpointError(f"tensor {name!r} is not part of the model to be written.")

    def _write(self, name: str, *arrays: NDArray[Any]) -> None:
        """Puts a parameter, and its scales if there are any, at their places."""
        piece = self._plan.pieces[name]
        tensors = [piece.tensor, self._plan.scales.get(name, "")]
        for tensor, array in zip(tensors, arrays, strict=False):
            path, offset = self._places[tensor]
            skipped = piece.start * DTYPE_BYTES[self._dtypes[tensor]]
            with path.open("r+b") as file:
                file.seek(offset + skipped)
                file.write(np.ascontiguousarray(array).data.cast("B"))
            self._unsynced.add(path)

    def _create_files(self, shards: list[list[TensorSpec]]) -> None:
        free = shutil.disk_usage(self._folder).free
        held = sum(path.stat().st_blocks * 512 for path in self._folder.iterdir())
        if self.nbytes > free + held:
            raise CheckpointError(
                f"{self._folder.parent} has {free:,} bytes free; the checkpoint needs "
                f"{self.nbytes - held:,}."
            )
        for number, specs in enumerate(shards, 1):
            name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            path = self._folder / (SINGLE_FILE if len(shards) == 1 else name)
            # Wide dtypes first, so that every tensor starts at a multiple of its width.
            ordered = sorted(specs, key=lambda spec: -DTYPE_BYTES[spec.dtype])
            header, size = _header(ordered)
            if not _is_begun(path, header, size):
                with path.open("wb") as file:
                    file.write(header)
                    file.truncate(len(header) + size)
                self._unsynced.add(path)
            position = len(header)
            for spec in ordered:
                self._places[spec.name] = (path, position)
                position += spec.nbytes


@contextmanager
def open_writer(
    folder: Path,
    config: ModelConfig,
    layout: Layout,
    *,
    shard_bytes: int | None = DEFAULT_SHARD_BYTES,
    companions: Iterable[Path] = (),
    partial: Path | None = None,
) -> Iterator[CheckpointWriter]:
    """A writer whose files appear as `folder` when the block ends well, and not at all otherwise.

    `shard_bytes` None gives each layer a file of its own, as released (V4-Flash: 46, Pro: 64).
    `companions` (a tokenizer) are copied beside the weights. `partial`, a folder beside `folder`,
    is where the files grow; if it is given it may exist, and it stays when the block ends badly.
    Raises CheckpointError if `folder` is there already and not empty, or if the disk refuses.
    """
    folder = folder.absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"{folder} exists and is not empty; name a new folder.")
    is_temporary = partial is None
    partial = partial or folder.parent / f".{folder.name}.partial-{secrets.token_hex(4)}"
    try:
        partial.mkdir(parents=True, exist_ok=not is_temporary)
        writer = CheckpointWriter(partial, config, layout, shard_bytes)
        yield writer
        writer.finish()
        for companion in companions:
            shutil.copyfile(companion, partial / companion.name)
        partial.rename(folder)
        _sync_folder(folder.parent)
    except OSError as problem:
        raise CheckpointError(f"{folder} cannot be written: {problem.strerror}.") from None
    finally:
        if is_temporary:
            shutil.rmtree(partial, ignore_errors=True)


def _shards(specs: list[TensorSpec], shard_bytes: int | None) -> list[list[TensorSpec]]:
    """The tensors in order, cut where a file would grow past `shard_bytes`, or at each layer."""
    shards: list[list[TensorSpec]] = [[]]
    size, part = 0, None
    for spec in specs:
        if shard_bytes is None:
            previous, part = part, _part(spec.name)
            is_full = part != previous
        else:
            is_full = size + spec.nbytes > shard_bytes
        if shards[-1] and (is_full or len(shards[-1]) == MAX_SHARD_TENSORS):
            shards.append([])
            size = 0
        shards[-1].append(spec)
        size += spec.nbytes
    return shards


def _part(name: str) -> str:
    """What a file of the release holds: the embedding, a layer, an MTP block, or the rest."""
    first, *rest = name.removeprefix("model.").split(".")
    return f"{first}.{rest[0]}" if first in ("layers", "mtp") else "embed" * (first == "embed")


def _header(specs: list[TensorSpec]) -> tuple[bytes, int]:
    """A safetensors file up to its data, padded so that the data is aligned; the data's size."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}  # transformers asks for it
    position = 0
    for spec in specs:
        offsets = [position, position + spec.nbytes]
        entries[spec.name] = {"dtype": spec.dtype, "shape": spec.shape, "data_offsets": offsets}
        position += spec.nbytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text, position


def _is_begun(path: Path, header: bytes, size: int) -> bool:
    """Whether the file is there with this header and room for `size` bytes of data."""
    if not path.exists() or path.stat().st_size != len(header) + size:
        return False
    with path.open("rb") as file:
        return file.read(len(header)) == header


def _write_json(path: Path, value: object) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(json.dumps(value, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
