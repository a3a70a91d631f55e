"""The training kernels described to ctypes. Mirrors kernels/native/training_abi.h."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from dougong.errors import BackendError, ShapeError
from dougong.kernels.cpu.library import library, struct_fields


class Gemm(ctypes.Structure):
    """Arguments of dg_matmul."""

    _fields_ = struct_fields("a b c", "m n k a_row a_column b_row b_column c_row add wide")


class Mix(ctypes.Structure):
    """Arguments of dg_mix_forward and dg_mix_backward."""

    _fields_ = struct_fields(
        "streams fn base scale x post comb mix d_x d_post d_comb d_streams d_fn d_base d_scale",
        "tokens num_streams size iterations",
        "hc_eps norm_eps",
    )


class Spread(ctypes.Structure):
    """Arguments of dg_spread_forward and dg_spread_backward."""

    _fields_ = struct_fields(
        "y streams post comb out d_out d_y d_streams d_post d_comb", "tokens num_streams size"
    )


class NormBack(ctypes.Structure):
    """Arguments of dg_norm_backward."""

    _fields_ = struct_fields(
        "x weight rotation d_y d_x d_weight", "rows size pairs rows_per_rotation", "eps"
    )


class PackPool(ctypes.Structure):
    """Arguments of dg_pool_forward and dg_pool_backward."""

    _fields_ = struct_fields(
        "tokens own before pooled d_pooled d_tokens", "entries ratio width overlap"
    )


class MoE(ctypes.Structure):
    """Arguments of dg_moe_forward and dg_moe_backward."""

    _fields_ = struct_fields(
        "x weights w1 w3 w2 order counts gate up y d_y d_x d_weights d_w1 d_w3 d_w2",
        "tokens top_k num_experts size width rounded",
        "limit",
    )


class PackAttention(ctypes.Structure):
    """Arguments of dg_attend_forward and dg_attend_backward."""

    _fields_ = struct_fields(
        "q kv entries sink rotation selected lengths out log_sum d_out d_q d_kv d_entries d_sink",
        "samples heads size pairs num_selected window ratio",
    )


class Alignment(ctypes.Structure):
    """Arguments of dg_alignment."""

    _fields_ = (
        ("attention", ctypes.POINTER(PackAttention)),
        *struct_fields(
            "index_q weight keys loss d_index_q d_weight d_keys",
            "index_heads index_size top_k shortest",
        ),
    )


class Entropy(ctypes.Structure):
    """Arguments of dg_entropy."""

    _fields_ = struct_fields("x head weight target loss d_x d_head", "rows size vocabulary")


class Muon(ctypes.Structure):
    """Arguments of dg_muon."""

    _fields_ = struct_fields(
        "parameter momentum gradient coefficients", "batch rows columns rounds", "decay kept step"
    )


def set_products(dtype: torch.dtype) -> None:
    """Whether products take their operands as they are (float32) or rounded to bfloat16.

    Everything else stays float32: weights, activations, sums, and the products of mHC, router,
    compressors and indexer. It holds for the whole process, forward and backward.
    """
    if dtype not in (torch.float32, torch.bfloat16):
        raise BackendError(f"products in {dtype}: choose torch.float32 or torch.bfloat16")
    library().dg_set_products(int(dtype == torch.bfloat16))


def run(name: str, arguments: ctypes.Structure) -> None:
    """Calls a kernel; the tensors behind the pointers must be alive in the caller."""
    getattr(library(), name)(ctypes.byref(arguments))


def apply(function: type[Function], *values: Any) -> Any:
    """`function.apply`, which torch leaves untyped."""
    return function.apply(*values)


def address(x: Tensor | None) -> int | None:
    """Where a tensor begins; None stays None."""
    return None if x is None else x.data_ptr()


def checked(x: Any, name: str, *shape: int) -> Tensor:
    """`x` contiguous; raises ShapeError unless it is float32 on the CPU, of `shape` (-1: any)."""
    if not isinstance(x, Tensor) or x.dtype != torch.float32 or x.device.type != "cpu":
        found = f"{x.dtype} on {x.device}" if isinstance(x, Tensor) else type(x).__name__
        raise ShapeError(f"{name}: {found}; backend training computes float32 tensors on the CPU")
    fits = len(shape) == x.dim() and all(w in (-1, n) for w, n in zip(shape, x.shape, strict=True))
    if not fits:
        raise ShapeError(f"{name}: shape {list(x.shape)}, expected {list(shape)} (-1: any)")
    return x if x.is_contiguous() else x.contiguous()
