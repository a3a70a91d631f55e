"""What a checkpoint is made of: parameters, and the tensors in which a file stores them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dougong.config import ModelConfig, V4Config
from dougong.errors import CheckpointError, ConfigError
from dougong.formats import fp4_block, fp8_block

Shape = tuple[int, ...]

# safetensors' names of the dtypes that checkpoints of these models use.
DTYPE_BYTES = {
    "I64": 8,
    "I32": 4,
    "F32": 4,
    "BF16": 2,
    "F16": 2,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E8M0": 1,
}
FLOATS = ("F32", "BF16", "F16")
INTEGERS = ("I64", "I32")
TORCH_DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}

# linear: FP8 where quantized.  expert: FP4 or FP8 where quantized.  half: in the model's dtype.
# single: always float32, because rounding it would change routing or mHC.  table: token ids.
Role = Literal["linear", "expert", "half", "single", "table"]


@dataclass(frozen=True, slots=True)
class Parameter:
    """One named array that the model computes with, whatever its stored form."""

    name: str
    shape: Shape
    role: Role = "half"

    @property
    def count(self) -> int:
        """The number of trained values; a table has none."""
        return 0 if self.role == "table" else math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor in a file; `dtype` is safetensors' name of it."""

    name: str
    shape: Shape
    dtype: str

    @property
    def nbytes(self) -> int:
        """Its size in the file, in bytes."""
        return math.prod(self.shape) * DTYPE_BYTES[self.dtype]


@dataclass(frozen=True, kw_only=True)
class Storage:
    """In which form each role is stored: a dtype, "fp8" (128x128 blocks) or "fp4" (rows of 32)."""

    half: str
    linear: str
    expert: str
    scale: str = "F8_E8M0"  # of FP8 blocks; V3 has F32

    @classmethod
    def of(cls, config: ModelConfig) -> Storage:
        """The published storage of a configuration; experts are FP4 where it does not say."""
        half = TORCH_DTYPES[config.torch_dtype]
        if not config.quantized:
            return cls(half=half, linear=half, expert=half)
        if isinstance(config, V4Config):
            return cls(half=half, linear="fp8", expert=config.expert_dtype or "fp4")
        return cls(half=half, linear="fp8", expert="fp8", scale="F32")

    def form(self, role: Role) -> str:
        """The dtype of `role`'s tensors, or "fp8" or "fp4"."""
        forms = {"linear": self.linear, "expert": self.expert, "half": self.half}
        return forms.get(role) or {"single": "F32", "table": "I64"}[role]

    def stored(self, parameter: Parameter) -> tuple[TensorSpec, ...]:
        """The tensors that hold `parameter`: itself, and its scales where it is quantized.

        Raises ConfigError where FP4 does not fit: its rows are made of blocks of 32.
        """
        name, shape, form = parameter.name, parameter.shape, self.form(parameter.role)
        if form not in ("fp8", "fp4"):
            return (TensorSpec(name, shape, form),)
        rows, columns = shape
        if form == "fp8":
            scale = TensorSpec(self._scale_name(name), fp8_block.scale_shape(*shape), self.scale)
            return TensorSpec(name, shape, "F8_E4M3"), scale
        if columns % fp4_block.BLOCK:
            raise ConfigError(
                f"{name} has {columns} columns; FP4 experts need hidden_size and "
                f"moe_intermediate_size to be multiples of {fp4_block.BLOCK}."
            )
        scale = TensorSpec(self._scale_name(name), (rows, columns // fp4_block.BLOCK), "F8_E8M0")
        return TensorSpec(name, (rows, columns // 2), "I8"), scale

    def _scale_name(self, name: str) -> str:
        """V3's scales are `x.weight_scale_inv`, V4's `x.scale` (trap 23)."""
        return f"{name}_scale_inv" if self.scale == "F32" else f"{name.removesuffix('weight')}scale"


def check_table(where: str, table: NDArray[np.int64], num_experts: int) -> None:
    """Raises CheckpointError unless each row names different experts, all of which exist."""
    ordered = np.sort(table, axis=1)
    is_wrong = (ordered[:, 0] < 0) | (ordered[:, -1] >= num_experts)
    is_wrong |= (ordered[:, 1:] == ordered[:, :-1]).any(axis=1)
    if is_wrong.any():
        token = int(np.argmax(is_wrong))
        raise CheckpointError(
            f"{where}: token {token} is routed to experts {table[token].tolist()}; expected "
            f"different ones from 0 to {num_experts - 1}."
        )
