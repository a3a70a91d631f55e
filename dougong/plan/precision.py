"""Which format each part of a model is stored and multiplied in, and what a chip makes of it.

A chip that lacks a format pays for it: the product runs in the next format it has (FP4 -> FP8 ->
BF16 ...), at that format's rate, with the weights read in their stored size.
"""

from __future__ import annotations

from dataclasses import dataclass

from dougong.config import V4Config
from dougong.errors import InputError
from dougong.plan.chips import Chip
from dougong.plan.kv import IndexFormat, KVFormat
from dougong.plan.weights import ModelConfig

# Bytes per stored weight, block scales included.
STORED_BYTES = {
    "fp4": 0.5 + 1 / 32,
    "int4": 0.5,
    "fp8": 1 + 1 / 128**2,
    "int8": 1.0,
    "bf16": 2.0,
    "f32": 4.0,
}
# What a chip without the first uses instead, in order.
FALLBACK = {
    "fp4": ("fp4", "fp8", "bf16", "fp16", "fp32"),
    "fp8": ("fp8", "bf16", "fp16", "fp32"),
    "int8": ("int8", "bf16", "fp16", "fp32"),
    "bf16": ("bf16", "fp16", "fp32"),
}


@dataclass(frozen=True, kw_only=True)
class Precision:
    """Stored and multiplied formats of one deployment."""

    name: str
    expert_stored: str
    linear_stored: str
    expert_compute: str
    linear_compute: str
    attention_compute: str = "bf16"
    index_compute: str = "fp8"
    kv_format: KVFormat = "fp8"
    index_format: IndexFormat | None = None
    block_scaled: bool = False  # 128x128 scales on a chip whose GEMM wants 1x32 (MX)
    about: str = ""


PRECISIONS = {
    precision.name: precision
    for precision in (
        Precision(
            name="release",
            expert_stored="fp4",
            linear_stored="fp8",
            expert_compute="fp8",
            linear_compute="fp8",
            about="as released: FP4 experts times FP8 rows, FP8 linears, FP8 cache, FP4 index",
        ),
        Precision(
            name="hif8",
            expert_stored="fp4",
            linear_stored="fp8",
            expert_compute="fp8",
            linear_compute="fp8",
            attention_compute="fp8",
            kv_format="hif8",
            about="Ascend 950's HiF8 cache and attention, MXFP8 linears, MXFP4 experts",
        ),
        Precision(
            name="fp8",
            expert_stored="fp8",
            linear_stored="fp8",
            expert_compute="fp8",
            linear_compute="fp8",
            index_format="fp8",
            about="everything FP8, as V3 and the V4 base checkpoints are stored",
        ),
        Precision(
            name="fp8-block",
            expert_stored="fp4",
            linear_stored="fp8",
            expert_compute="fp8",
            linear_compute="fp8",
            block_scaled=True,
            about="release with 128x128 FP8 scales kept on hardware built for MX blocks",
        ),
        Precision(
            name="fp4",
            expert_stored="fp4",
            linear_stored="fp8",
            expert_compute="fp4",
            linear_compute="fp8",
            index_compute="fp4",
            about="FP4 times FP4 experts (W4A4)",
        ),
        Precision(
            name="int8",
            expert_stored="int8",
            linear_stored="int8",
            expert_compute="int8",
            linear_compute="int8",
            index_compute="int8",
            kv_format="bf16",
            index_format="fp8",
            about="W8A8: per-channel INT8 weights, per-token INT8 rows, BF16 cache",
        ),
        Precision(
            name="w4a8",
            expert_stored="int4",
            linear_stored="int8",
            expert_compute="int8",
            linear_compute="int8",
            index_compute="int8",
            kv_format="bf16",
            index_format="fp8",
            about="INT4 experts times INT8 rows, INT8 linears, BF16 cache",
        ),
        Precision(
            name="bf16",
            expert_stored="bf16",
            linear_stored="bf16",
            expert_compute="bf16",
            linear_compute="bf16",
            index_compute="bf16",
            kv_format="bf16",
            index_format="bf16",
            about="every weight in BF16: 3.6 times the memory of a quantized release",
        ),
    )
}


def find_precision(name: str) -> Precision:
    """The precision called `name`, or InputError with the list."""
    if name not in PRECISIONS:
        raise InputError(f"precision {name!r} is unknown; use one of {', '.join(PRECISIONS)}")
    return PRECISIONS[name]


def default_precision(chip: Chip, config: ModelConfig) -> Precision:
    """What a chip runs best without retraining the model.

    The checkpoint's own formats; INT8 conversion where a chip has INT8 but no FP8; BF16 for
    checkpoints that are not quantized. CPUs dequantize the stored formats in registers.
    """
    if not config.quantized:
        return PRECISIONS["bf16"]
    if chip.get("fp8") is None and chip.get("int8") is not None and chip.kind != "cpu":
        return PRECISIONS["int8"]
    return PRECISIONS["release" if isinstance(config, V4Config) else "fp8"]


def precisions_for(chip: Chip, config: ModelConfig) -> list[Precision]:
    """The chip's best precision first, then those it multiplies natively."""
    best = default_precision(chip, config)
    if not config.quantized:
        return [best]
    others = []
    if chip.get("int8"):
        others += [PRECISIONS["int8"], PRECISIONS["w4a8"]]
    if chip.get("fp8") and isinstance(config, V4Config):
        others += [PRECISIONS["release"]]
    if "hif8" in chip.native_formats:
        others += [PRECISIONS["hif8"]]
    if chip.get("fp4"):
        others += [PRECISIONS["fp4"]]
    return [best, *(one for one in others if one is not best)]


def compute_rate(chip: Chip, wanted: str) -> tuple[float, str]:
    """Dense peak FLOP/s at which the chip multiplies `wanted`, and the format it uses for it."""
    for name in FALLBACK[wanted]:
        rate = chip.get(name)
        if rate is not None:
            return rate, name
    return chip.need("bf16"), "bf16"  # raises: nothing is published


def parse_precision(text: str) -> Precision | None:
    """The precision that a published row's free text means, or None when it is not one we model."""
    words = text.lower().replace("_", "-")
    rules = (
        ("hif8", "hif8"),
        ("w4a4", "fp4"),
        ("w4a8", "w4a8"),
        ("w8a8", "int8"),
        ("int8", "int8"),
        ("bf16", "bf16"),
        ("mxfp8", "release"),
        ("nvfp4", "fp4"),
        ("128x128", "fp8-block"),
        ("fp8-mxfp4", "fp8-block"),
        ("fp4 experts", "release"),
        ("fp4", "release"),
        ("fp8", "fp8"),
    )
    return next((PRECISIONS[name] for word, name in rules if word in words), None)
