"""The schema of a checkpoint as data: every tensor's name, shape and dtype from a configuration."""

from __future__ import annotations

from collections.abc import Iterator

from dougong.checkpoint.schema_v3 import v3_parameters
from dougong.checkpoint.schema_v4 import v4_parameters
from dougong.checkpoint.tensors import Parameter, Storage, TensorSpec
from dougong.config import ModelConfig, V4Config


def parameters(config: ModelConfig) -> Iterator[Parameter]:
    """Every parameter and table of a model under its canonical, published name."""
    return v4_parameters(config) if isinstance(config, V4Config) else v3_parameters(config)


def schema(config: ModelConfig) -> list[TensorSpec]:
    """Every tensor of the published layout as `config` says it is stored, scales included.

    For V4-Flash 69,187 tensors of 159,609,485,896 bytes, as its index file says.
    """
    storage = Storage.of(config)
    return [spec for parameter in parameters(config) for spec in storage.stored(parameter)]
