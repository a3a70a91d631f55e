"""A parameter's values as the bytes of the tensors that store it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dougong.checkpoint.tensors import Parameter, check_table
from dougong.errors import CheckpointError
from dougong.formats import ALIASES, Quantized, bf16, fp4_block, quantize, ue8m0

BLOCK_FORMS = {form: ALIASES[form] for form in ("fp8", "fp4")}  # by `Storage.form`
_BF16_EXPONENT = np.uint16(0x7F80)  # all ones: infinity


def encode(
    parameter: Parameter, values: NDArray[Any], form: str, scale_dtype: str, num_experts: int
) -> tuple[NDArray[Any], ...]:
    """The little-endian arrays to store for `values`: one, or the codes and their scales.

    `form` is a dtype, "fp8" or "fp4" (`Storage.form`). Values that the form can represent are kept
    exactly. Raises CheckpointError for a wrong shape, NaN or infinity, values that the form cannot
    reach, or a table that names an expert twice.
    """
    where = f"tensor {parameter.name!r}"
    if values.shape != parameter.shape:
        raise CheckpointError(
            f"{where} has shape {list(values.shape)}; expected {list(parameter.shape)}."
        )
    if parameter.role == "table":
        table = np.asarray(values, "<i8")
        check_table(where, table, num_experts)
        return (table,)
    numbers = np.asarray(values, np.float32)
    if not np.isfinite(numbers).all():
        raise CheckpointError(f"{where} holds NaN or infinity; expected finite weights.")
    if form in BLOCK_FORMS:
        return as_stored(quantize(numbers, BLOCK_FORMS[form]), scale_dtype)
    return (_encode_float(where, numbers, form),)


def as_stored(quantized: Quantized, scale_dtype: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Codes, two FP4 ones to a byte, and scales as F8_E8M0 or F32, as a file holds them."""
    assert quantized.scale_PQ is not None, "the formats that files hold have block scales"
    is_packed = quantized.format.element.bits == 4
    codes = fp4_block.pack(quantized.codes_OI) if is_packed else quantized.codes_OI
    scale = quantized.scale_PQ
    return codes, scale.astype("<f4") if scale_dtype == "F32" else ue8m0.encode(scale)


def _encode_float(where: str, values: NDArray[np.float32], dtype: str) -> NDArray[Any]:
    if dtype == "F32":
        return values.astype("<f4", copy=False)
    if dtype == "BF16":
        codes = bf16.encode(values).astype("<u2", copy=False)
        is_finite = ((codes & _BF16_EXPONENT) != _BF16_EXPONENT).all()
    else:
        with np.errstate(over="ignore"):
            codes = values.astype("<f2")
        is_finite = np.isfinite(codes).all()
    if not is_finite:
        raise CheckpointError(
            f"{where} has values beyond the range of {dtype}; choose F32 or BF16."
        )
    return codes
