"""Safetensors in and out: the only place that knows tensor names, layouts and scale layouts.

`open_checkpoint` reads a folder lazily, `write_checkpoint` and `convert` write one, `schema` lists
what one must hold. Imports errors, config and formats; no torch.
"""

from dougong.checkpoint.convert import Written, convert, target_config, write_checkpoint
from dougong.checkpoint.reader import Checkpoint, Extent, StoredTensor, TensorInfo, open_checkpoint
from dougong.checkpoint.schema import parameters, schema
from dougong.checkpoint.tensors import Parameter, Storage, TensorSpec

__all__ = [
    "Checkpoint",
    "Extent",
    "Parameter",
    "Storage",
    "StoredTensor",
    "TensorInfo",
    "TensorSpec",
    "Written",
    "convert",
    "open_checkpoint",
    "parameters",
    "schema",
    "target_config",
    "write_checkpoint",
]
