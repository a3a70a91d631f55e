"""The joint between model and machine: backends are tables from operator names to implementations.

`reference` (torch, any device) defines every operator. Another backend fills the same table; what
it leaves out falls back to the reference, unless the caller forbids that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

from dougong.errors import BackendError
from dougong.kernels import alignment as _alignment
from dougong.kernels import attention as _attention
from dougong.kernels import compressor as _compressor
from dougong.kernels import experts as _experts
from dougong.kernels import hyper_connection as _mhc
from dougong.kernels import index as _index
from dougong.kernels import linear as _linear
from dougong.kernels import norm as _norm
from dougong.kernels import router as _router
from dougong.kernels.cpu import OPERATORS as _CPU
from dougong.kernels.cpu.library import library
from dougong.kernels.recompute import recorded
from dougong.kernels.training import OPERATORS as _TRAINING

Operator = Callable[..., Any]


@dataclass(frozen=True)
class Operators:
    """One backend's operators, cut where data rests in memory: about ten calls a layer."""

    linear: Operator
    wide_linear: Operator
    router: Operator
    grouped_experts: Operator
    expert_mlp: Operator
    mhc_pre: Operator
    mhc_post: Operator
    mhc_head: Operator
    rms_norm: Operator
    norm_rope_q: Operator
    norm_rope_kv: Operator
    rope_index_q: Operator
    compress: Operator
    index_select: Operator
    index_alignment: Operator
    attention: Operator
    remember: Operator
    add: Operator
    lookup: Operator
    grouped_projection: Operator
    logits: Operator
    cross_entropy: Operator


REFERENCE = Operators(
    linear=_linear.linear,
    wide_linear=_linear.wide_linear,
    router=_router.router,
    grouped_experts=_experts.grouped_experts,
    expert_mlp=_experts.expert_mlp,
    mhc_pre=_mhc.mhc_pre,
    mhc_post=_mhc.mhc_post,
    mhc_head=_mhc.mhc_head,
    rms_norm=_norm.rms_norm,
    norm_rope_q=_norm.norm_rope_q,
    norm_rope_kv=_norm.norm_rope_kv,
    rope_index_q=_index.rope_index_q,
    compress=_compressor.compress,
    index_select=_index.index_select,
    index_alignment=_alignment.index_alignment,
    attention=_attention.attention,
    remember=_compressor.remember,
    add=_experts.add,
    lookup=_router.lookup,
    grouped_projection=_linear.grouped_projection,
    logits=_linear.wide_linear,
    cross_entropy=_linear.cross_entropy,
)

# Backends other than the reference: operator name -> implementation.
BACKENDS: dict[str, dict[str, Operator]] = {
    "reference": {},
    "cpu": _CPU,
    "training": _TRAINING,
}


def operators(backend: str = "reference", *, fallback: bool = True) -> Operators:
    """The operator table of `backend`, completed from the reference.

    Raises BackendError for an unknown backend or one that is not built here, and for a missing
    operator if not `fallback`.
    """
    if backend not in BACKENDS:
        known = ", ".join(sorted(BACKENDS))
        raise BackendError(f"backend: '{backend}' does not exist here; choose one of: {known}")
    if backend != "reference":
        library()
    native = BACKENDS[backend]
    missing = [name for name in operator_names() if name not in native]
    if missing and not fallback and backend != "reference":
        raise BackendError(
            f"backend '{backend}' has no native {', '.join(missing)}; allow the fallback to the "
            "reference or choose another backend"
        )
    table = replace(REFERENCE, **native)
    if backend == "cpu":
        return table  # which has no gradients
    return Operators(**{name: recorded(name, getattr(table, name)) for name in operator_names()})


def operator_names() -> list[str]:
    """Every operator a backend can implement, in the order of a layer's calls."""
    return [field.name for field in fields(Operators)]


def coverage(backend: str) -> dict[str, str]:
    """Operator -> "native" or "fallback"; the reference is native to itself."""
    native = BACKENDS[backend]
    own = backend == "reference"
    return {n: "native" if own or n in native else "fallback" for n in operator_names()}
