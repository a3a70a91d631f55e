"""The native library: found, loaded and described to ctypes. Mirrors kernels/native/abi.h."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from ctypes import c_float, c_int64, c_void_p
from functools import cache
from pathlib import Path

from dougong.errors import BackendError, InputError

ABI = 7
FILE = "libdougong_native.dylib" if platform.system() == "Darwin" else "libdougong_native.so"
PATHS = ("avx512", "avx2", "portable")

F32, BF16, E4M3, E2M1, INT8 = range(5)


class Matrix(ctypes.Structure):
    """A stored matrix."""

    _fields_ = (
        ("data", c_void_p),
        ("scale", c_void_p),
        ("rows", c_int64),
        ("columns", c_int64),
        ("format", c_int64),
        ("group", c_int64),
    )


def struct_fields(
    pointers: str, integers: str, floats: str = ""
) -> tuple[tuple[str, type[ctypes._SimpleCData]], ...]:  # type: ignore[type-arg]
    """Struct members by name: pointers first, then int64, then float."""
    return (
        *((name, c_void_p) for name in pointers.split()),
        *((name, c_int64) for name in integers.split()),
        *((name, c_float) for name in floats.split()),
    )


class Linear(ctypes.Structure):
    """Arguments of dg_linear."""

    _fields_ = struct_fields("weight x y", "tokens groups x_dtype y_dtype rounded")


class Experts(ctypes.Structure):
    """Arguments of dg_experts."""

    _fields_ = struct_fields(
        "w1 w3 w2 x experts weights y", "tokens top_k num_experts x_dtype rounded", "limit"
    )


class Router(ctypes.Structure):
    """Arguments of dg_router."""

    _fields_ = struct_fields(
        "weight x bias hashed weights experts", "tokens top_k x_dtype", "route_scale"
    )


class Mhc(ctypes.Structure):
    """Arguments of dg_mhc_mix."""

    _fields_ = struct_fields(
        "streams fn base scale x post comb",
        "tokens num_streams size dtype iterations",
        "hc_eps norm_eps",
    )


class MhcPost(ctypes.Structure):
    """Arguments of dg_mhc_post."""

    _fields_ = struct_fields("y streams post comb out", "tokens num_streams size y_dtype dtype")


class NormRope(ctypes.Structure):
    """Arguments of dg_norm_rope."""

    _fields_ = struct_fields(
        "x weight rotation y",
        "rows size pairs rows_per_rotation x_dtype y_dtype rounding",
        "eps",
    )


class NativePlace(ctypes.Structure):
    """A `paged.Place`."""

    _fields_ = struct_fields("", "format width rope bytes offset count")


class NativeSpan(ctypes.Structure):
    """A `paged.Span`."""

    _fields_ = (
        *struct_fields("", "low tokens start oldest frozen"),
        *struct_fields("rings blocks", ""),
    )


class Compress(ctypes.Structure):
    """Arguments of dg_compress."""

    _fields_ = struct_fields(
        "value score ape weight rotation spans ring entries",
        "num_spans tokens ratio width pairs overlap dtype rounding",
        "eps",
    )


class Index(ctypes.Structure):
    """Arguments of dg_index."""

    _fields_ = struct_fields(
        "q weight spans keys selected", "num_spans tokens heads size ratio k dtype weight_dtype"
    )


class Attention(ctypes.Structure):
    """Arguments of dg_attention."""

    _fields_ = struct_fields(
        "q kv spans ring entries selected sink rotation out",
        "num_spans tokens heads size pairs num_selected window ratio dtype",
    )


class Remember(ctypes.Structure):
    """Arguments of dg_remember."""

    _fields_ = struct_fields("kv spans ring", "num_spans tokens size dtype")


class Add(ctypes.Structure):
    """Arguments of dg_add."""

    _fields_ = struct_fields("a b y", "count y_dtype")


class Lookup(ctypes.Structure):
    """Arguments of dg_lookup."""

    _fields_ = struct_fields("table ids out", "count width")


class Call(ctypes.Structure):
    """A recorded call."""

    _fields_ = (("operation", c_int64), ("arguments", c_void_p))


# In the order of abi.h's dg_operation.
CALLS: dict[str, type[ctypes.Structure]] = {
    "dg_linear": Linear,
    "dg_experts": Experts,
    "dg_router": Router,
    "dg_mhc_mix": Mhc,
    "dg_mhc_post": MhcPost,
    "dg_norm_rope": NormRope,
    "dg_compress": Compress,
    "dg_index": Index,
    "dg_attention": Attention,
    "dg_remember": Remember,
    "dg_add": Add,
    "dg_lookup": Lookup,
}


def library_file() -> Path:
    """The built library: where DOUGONG_NATIVE_FOLDER says, or beside the sources or the install.

    Raises BackendError if it was not built.
    """
    if chosen := os.environ.get("DOUGONG_NATIVE_FOLDER"):
        return Path(chosen) / FILE
    folders = [Path(__file__).parents[1] / "native"]
    folders += [Path(entry) / "dougong/kernels/native" for entry in sys.path if entry]
    for folder in folders:
        if (folder / FILE).is_file():
            return folder / FILE
    raise BackendError(
        "backend cpu: its native library is not built; run `pip install -e .` (it needs a C++ "
        "compiler), or choose --backend reference."
    )


def is_built() -> bool:
    """Whether the library is there and loads."""
    try:
        library()
    except BackendError:
        return False
    return True


@cache
def library() -> ctypes.CDLL:
    """The loaded library. torch must be imported first, so that both share one OpenMP pool.

    Raises BackendError if it was not built, or for another version of these sources; InputError if
    DOUGONG_CPU_PATH names no path that runs here.
    """
    path = library_file()
    try:
        native = ctypes.CDLL(str(path))
    except OSError as problem:
        raise BackendError(f"backend cpu: {path} cannot be loaded: {problem}.") from None
    if native.dg_abi() != ABI:
        raise BackendError(
            f"backend cpu: {path} was built from other sources; run `pip install -e .` again."
        )
    for name, arguments in CALLS.items():
        function = getattr(native, name)
        function.argtypes, function.restype = [ctypes.POINTER(arguments)], None
    native.dg_run.argtypes, native.dg_run.restype = [ctypes.POINTER(Call), c_int64], None
    native.dg_path.restype = ctypes.c_char_p
    native.dg_set_path.argtypes = [ctypes.c_char_p]
    native.dg_stream.argtypes, native.dg_stream.restype = [c_void_p, c_int64], ctypes.c_double
    if (wanted := os.environ.get("DOUGONG_CPU_PATH")) and native.dg_set_path(wanted.encode()) != 0:
        raise InputError(  # no BackendError, for which another backend would step in silently
            f"DOUGONG_CPU_PATH: path '{wanted}' does not run here; choose one of "
            f"{', '.join(PATHS)}, auto."
        )
    return native


def instruction_path() -> str:
    """Which path runs: "avx512", "avx2" or "portable"."""
    return str(library().dg_path().decode())


def set_instruction_path(name: str) -> None:
    """Makes `name` (or "auto", the best) run from now on; all paths give the same bits.

    Raises BackendError if this machine cannot.
    """
    if library().dg_set_path(name.encode()) != 0:
        raise BackendError(
            f"backend cpu: path '{name}' does not run here; choose one of {', '.join(PATHS)}, auto."
        )
