"""How a replica is spread over chips, and what each chip then holds.

Experts are spread over all chips of the replica (expert parallel). Attention and the other dense
parts are split over groups of `tp` chips; the groups share the requests (data parallel). In
prefill, `cp` chips of a group share one prompt (context parallel) instead of its matrices.
"""

from __future__ import annotations

from dataclasses import dataclass

from dougong.errors import InputError
from dougong.plan.chips import Chip
from dougong.plan.kv import kv_bytes
from dougong.plan.precision import STORED_BYTES, Precision
from dougong.plan.weights import ModelConfig, Weight, grouped_weights

# Share of memory kept for activations, dispatch buffers, graphs and the allocator: our assumption,
# near the 0.90 that vLLM and SGLang use as their default.
RESERVED_SHARE = 0.10


@dataclass(frozen=True, kw_only=True)
class Layout:
    """`chips` chips in dp groups of `tp` (in prefill also `cp`) chips; experts over all of them."""

    chips: int
    tp: int = 1
    cp: int = 1

    def __post_init__(self) -> None:
        if self.chips < 1 or self.tp < 1 or self.cp < 1 or self.chips % (self.tp * self.cp):
            raise InputError(
                f"{self.chips} chips cannot be cut into groups of {self.tp} x {self.cp}; "
                "the tensor and context degrees must divide the number of chips"
            )

    @property
    def dp(self) -> int:
        """Groups that serve different requests."""
        return self.chips // (self.tp * self.cp)

    @property
    def ep(self) -> int:
        """Chips that share the routed experts."""
        return self.chips

    def label(self) -> str:
        """Such as "TP2 DP8 EP16"."""
        parts = [f"TP{self.tp}", f"DP{self.dp}", f"EP{self.ep}"]
        return " ".join(parts + ([f"CP{self.cp}"] if self.cp > 1 else []))


@dataclass(frozen=True, kw_only=True)
class MemoryNeed:
    """Bytes on the fullest chip; `fits` compares with its capacity."""

    dense: float
    experts: float
    kv: float
    reserved: float
    capacity: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.dense + self.experts + self.kv + self.reserved

    @property
    def fits(self) -> bool:
        """True if the chip holds it."""
        return self.total <= self.capacity


def stored_format(weight: Weight, precision: Precision) -> str:
    """The format a deployment keeps a weight in; what the release keeps in BF16/F32 stays so."""
    if weight.group == "routed_expert":
        return precision.expert_stored
    linear = weight.group in ("attention", "shared_expert", "dense_mlp", "mtp")
    if weight.is_matmul and (linear or weight.name == "indexer.wq_b"):
        return precision.linear_stored
    return "f32" if weight.stored == "f32" else "bf16"


def weight_bytes(weight: Weight, precision: Precision) -> float:
    """Bytes of one inventory line under a deployment's formats."""
    if weight.stored == "i64":
        return float(weight.stored_bytes)
    return weight.parameters * STORED_BYTES[stored_format(weight, precision)]


def memory_need(
    config: ModelConfig,
    layout: Layout,
    chip: Chip,
    precision: Precision,
    context_len: int,
    batch: int,
    with_mtp: bool = True,
) -> MemoryNeed:
    """What the fullest chip holds when `batch` requests of `context_len` tokens are resident."""
    dense = experts = 0.0
    mtp = grouped_weights(config, "mtp") if with_mtp else ()
    for weight, layers in grouped_weights(config, "main") + mtp:
        size = layers * weight_bytes(weight, precision)
        if weight.group == "routed_expert":
            experts += size / weight.count * -(-weight.count // layout.ep)
        elif weight.group in ("embedding", "head"):
            dense += size / layout.chips  # vocabulary parallel
        else:
            dense += size / layout.tp
    requests = -(-batch // layout.dp)
    per_request = kv_bytes(config, context_len, precision.kv_format, precision.index_format)
    capacity = chip.need("mem")
    return MemoryNeed(
        dense=dense,
        experts=experts,
        kv=requests * per_request,  # one KV head: every chip of a group holds all of it
        reserved=RESERVED_SHARE * capacity,
        capacity=capacity,
    )


def largest_batch(
    config: ModelConfig, layout: Layout, chip: Chip, precision: Precision, context_len: int
) -> int:
    """Most requests of `context_len` tokens that fit at once; 0 if not even the weights do."""
    need = memory_need(config, layout, chip, precision, context_len, 0)
    free = need.capacity - need.total
    if free <= 0:
        return 0
    per_request = kv_bytes(config, context_len, precision.kv_format, precision.index_format)
    return layout.dp * int(free // per_request)


def smallest_count(
    config: ModelConfig, chip: Chip, precision: Precision, context_len: int, batch: int
) -> int | None:
    """Fewest chips (a power of two up to 1,024) that hold the model and `batch` requests."""
    for power in range(11):
        chips = 1 << power
        layouts = [Layout(chips=chips, tp=1 << p) for p in range(min(power, 4) + 1)]
        for layout in layouts:
            if memory_need(config, layout, chip, precision, context_len, batch).fits:
                return chips
    return None


def default_layout(chips: int, batch: int) -> Layout:
    """Data-parallel attention while every group has a request; with fewer requests the chips of a
    group share its matrices (tensor parallel), up to 8."""
    tp = 1
    while tp < 8 and chips % (tp * 2) == 0 and chips // tp > max(1, batch):
        tp *= 2
    return Layout(chips=chips, tp=tp)
