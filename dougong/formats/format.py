"""Every number format under one description: element, block, scales, bytes, machines.

value = element * block scale * tensor scale. Formats that differ in nothing but how the scale is
chosen (V4's FP4 rounds it up and never saturates, OCP's MXFP4 rounds it down and may) are two
formats here, because their errors differ; what is stored is the same.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Literal

from dougong.errors import InputError, ShapeError
from dougong.formats.elements import BF16, INT4, INT8, UINT4, Element
from dougong.formats.hif8 import HIF8
from dougong.formats.minifloat import E2M1, E2M3, E3M2, E4M3, E5M2

# What a scale can be, and its bits. ue8m0_up and _down: the power of two at or above, at or below.
SCALE_BITS = {
    "none": 0, "fp32": 32, "fp16": 16, "bf16": 16, "e4m3": 8, "ue8m0_up": 8, "ue8m0_down": 8,
}  # fmt: skip
Scale = Literal["none", "fp32", "fp16", "bf16", "e4m3", "ue8m0_up", "ue8m0_down"]
WHOLE_ROW = 0  # as a block's number of columns

MX = "OCP Microscaling Formats (MX) v1.0"
OFP8 = "OCP 8-bit Floating Point (OFP8) v1.0"


@dataclass(frozen=True, kw_only=True)
class Format:
    """How the values of a matrix [rows, columns] are stored.

    block:        rows and columns of the tile that shares one scale; at the edge it is smaller.
    scale:        what a block's scale is and how it is rounded.
    tensor_scale: whether one float32 scales the whole tensor, on top of the block scales.
    zero_point:   whether each block has an element that stands for 0, so that its range need not
                  be symmetric; as many bits as an element.
    top:          the element value to which a block's largest magnitude is scaled.
    table:        its row in low_precision_formats.csv.
    """

    name: str
    title: str
    element: Element
    block: tuple[int, int] = (1, WHOLE_ROW)
    scale: Scale = "none"
    tensor_scale: bool = False
    zero_point: bool = False
    top: float
    table: str
    source: str

    def block_shape(self, columns: int) -> tuple[int, int]:
        """The rows and columns of a block in a matrix of so many columns."""
        rows, width = self.block
        return rows, width or max(columns, 1)

    def scale_shape(self, rows: int, columns: int) -> tuple[int, int]:
        """The shape of the block scales of a [rows, columns] matrix."""
        height, width = self.block_shape(columns)
        return -(-rows // height), -(-columns // width)

    def nbytes(self, shape: tuple[int, ...]) -> int:
        """The bytes of a matrix with all its scales; raises ShapeError unless it is a matrix."""
        rows, columns = matrix_shape(shape)
        per_block = SCALE_BITS[self.scale] + self.zero_point * self.element.bits
        blocks = math.prod(self.scale_shape(rows, columns)) if self.scale != "none" else 0
        bits = rows * columns * self.element.bits + blocks * per_block
        return -(-bits // 8) + 4 * self.tensor_scale

    def bits_per_value(self, shape: tuple[int, ...]) -> float:
        """Bits a value of a matrix takes, its share of the scales included."""
        return 8 * self.nbytes(shape) / math.prod(shape)

    @property
    def native_machines(self) -> str:
        """The machines that multiply it in hardware, in the words of low_precision_formats.csv."""
        return _native_machines()[self.table] if self.table else "software"


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """`shape` as rows and columns; raises ShapeError unless it has two dims."""
    if len(shape) != 2:
        raise ShapeError(f"Number formats store matrices, got shape {list(shape)}.")
    return shape[0], shape[1]


@cache
def _native_machines() -> dict[str, str]:
    file = resources.files("dougong") / "data" / "plan" / "low_precision_formats.csv"
    rows = csv.DictReader(file.read_text(encoding="utf-8").splitlines())
    return {row["id"]: row["hardware_native"] for row in rows}


def _microscaling(element: Element, top: float) -> Format:
    """An MX format: rows of 32 share a power of two, chosen so that the largest is in its binade.

    `top` is the power of two in which the element's largest value lies.
    """
    variant = f"_{element.name.lower()}" if element.name != "E2M1" else ""
    title = f"MXFP{element.bits}" + (f" {element.name}" if variant else "")
    name = f"mxfp{element.bits}{variant}"
    return Format(
        name=name, title=title, element=element, block=(1, 32), scale="ue8m0_down", top=top,
        table=name, source=MX,
    )  # fmt: skip


def _deepseek(element: Element, block: tuple[int, int], scale: Scale, table: str) -> Format:
    """DeepSeek's block formats: tiles of a weight, or groups along the rows of an activation."""
    shape, kind = f"block{block[0]}", "UE8M0" if scale == "ue8m0_up" else "FP32"
    if block[0] == 1:
        shape = f"row{block[1]}"
    return Format(
        name=f"fp{element.bits}_{shape}_{kind.lower()}",
        title=f"FP{element.bits} {element.name}, {block[0]}x{block[1]} {kind}",
        element=element, block=block, scale=scale, top=element.max, table=table,
        source="arXiv 2412.19437; DeepSeek-V4 inference code",
    )  # fmt: skip


_ALL = (
    Format(name="bf16", title="BF16", element=BF16, top=BF16.max, table="bf16",
           source="Google, Intel"),
    Format(name="fp8_e4m3", title="FP8 E4M3, tensor scale", element=E4M3, tensor_scale=True,
           top=E4M3.max, table="fp8_e4m3", source=OFP8),
    Format(name="fp8_e5m2", title="FP8 E5M2, tensor scale", element=E5M2, tensor_scale=True,
           top=E5M2.max, table="fp8_e5m2", source=OFP8),
    _deepseek(E4M3, (128, 128), "fp32", "fp8_block128_fp32"),
    _deepseek(E4M3, (128, 128), "ue8m0_up", "fp8_block128_ue8m0"),
    _deepseek(E4M3, (1, 128), "fp32", "fp8_block128_fp32"),
    _deepseek(E4M3, (1, 128), "ue8m0_up", "fp8_block128_ue8m0"),
    _microscaling(E4M3, 256.0),
    _microscaling(E5M2, 2.0**15),
    _microscaling(E3M2, 16.0),
    _microscaling(E2M3, 4.0),
    _microscaling(E2M1, 4.0),
    _deepseek(E2M1, (1, 32), "ue8m0_up", "mxfp4"),
    Format(name="nvfp4", title="NVFP4", element=E2M1, block=(1, 16), scale="e4m3",
           tensor_scale=True, top=E2M1.max, table="nvfp4", source="NVIDIA, NVFP4 announcement"),
    # 15 is the top of the range in which HiF8 has three mantissa bits: at 2**15 it would have one.
    Format(name="hif8", title="HiF8, tensor scale", element=HIF8, tensor_scale=True, top=15.0,
           table="hif8", source="arXiv 2409.16626; top: ours"),
    Format(name="int8_pc", title="INT8 per channel", element=INT8, scale="fp32", top=INT8.max,
           table="int8_pc", source="CANN recipes"),
    Format(name="int8_g128", title="INT8, groups of 128", element=INT8, block=(1, 128),
           scale="fp16", top=INT8.max, table="", source="GPTQ, arXiv 2210.17323, at 8 bits"),
    Format(name="int4_g32", title="INT4, groups of 32", element=INT4, block=(1, 32), scale="bf16",
           top=INT4.max, table="int4_g32", source="Kimi-K2-Thinking model card"),
    Format(name="int4_g128_awq", title="INT4 with zero point, groups of 128", element=UINT4,
           block=(1, 128), scale="fp16", zero_point=True, top=UINT4.max, table="int4_g128_awq",
           source="AWQ, arXiv 2306.00978"),
)  # fmt: skip
FORMATS: dict[str, Format] = {format.name: format for format in _ALL}
# What V4's release calls them: tiles of 128x128 for linears, rows of 32 for routed experts.
FP8, FP4 = FORMATS["fp8_block128_ue8m0"], FORMATS["fp4_row32_ue8m0"]
ALIASES = {"fp8": FP8, "fp4": FP4}


def find_format(name: str) -> Format:
    """The format called `name`, or by its alias; raises InputError with the list of names."""
    found = FORMATS.get(name) or ALIASES.get(name)
    if found is None:
        known = ", ".join((*ALIASES, *FORMATS))
        raise InputError(f"number format {name!r} is unknown; choose one of {known}.")
    return found
