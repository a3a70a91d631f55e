"""The weight files of a folder: one `model.safetensors`, or the shards that its index names.

Nothing else in the folder is opened, whatever its name.
"""

from __future__ import annotations

import re
from pathlib import Path

from dougong.checkpoint.safetensors_file import SafetensorsFile
from dougong.config_json import read_json_object
from dougong.errors import CheckpointError

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
MAX_INDEX_BYTES = 64 * 2**20  # V4-Pro's index has about 13 MB
_SHARD_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,200}\.safetensors")


def open_files(folder: Path) -> dict[str, SafetensorsFile]:
    """The file that holds each tensor, by stored name; raises CheckpointError for any defect.

    A folder with both a single file and an index is refused: nothing says which one is meant.
    """
    single, index = folder / SINGLE_FILE, folder / INDEX_FILE
    if single.exists() and index.exists():
        raise CheckpointError(
            f"{folder} holds both {SINGLE_FILE} and {INDEX_FILE}; remove the one not meant."
        )
    if index.exists():
        return _open_shards(folder, index)
    if not single.exists():
        raise CheckpointError(
            f"{folder} holds neither {SINGLE_FILE} nor {INDEX_FILE}; expected one of them."
        )
    file = SafetensorsFile(single)
    return dict.fromkeys(file.entries, file)


def _open_shards(folder: Path, index: Path) -> dict[str, SafetensorsFile]:
    weight_map = read_json_object(index, MAX_INDEX_BYTES, CheckpointError).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index}: weight_map is missing or empty.")
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or not _SHARD_NAME.fullmatch(shard):
            raise CheckpointError(
                f"{index}: tensor {name[:200]!r} is said to be in {str(shard)[:200]!r}; expected "
                "the plain name of a .safetensors file in the same folder."
            )
    shards = {name: SafetensorsFile(folder / name) for name in sorted(set(weight_map.values()))}
    return {name: shards[shard] for name, shard in _agreed(index, weight_map, shards).items()}


def _agreed(
    index: Path, weight_map: dict[str, str], shards: dict[str, SafetensorsFile]
) -> dict[str, str]:
    """The index, once every tensor is in the shard it names and in no other."""
    found: dict[str, str] = {}
    for shard, file in shards.items():
        for name in file.entries:
            if name in found:
                raise CheckpointError(
                    f"{index.parent}: tensor {name!r} is both in {found[name]} and in {shard}."
                )
            found[name] = shard
    for name, shard in weight_map.items():
        if found.get(name) != shard:
            where = f"it is in {found[name]}" if name in found else "no shard has it"
            raise CheckpointError(f"{index}: tensor {name!r} should be in {shard}, but {where}.")
    if len(found) > len(weight_map):
        name = next(name for name in found if name not in weight_map)
        raise CheckpointError(f"{index.parent / found[name]}: tensor {name!r} is not in the index.")
    return found
