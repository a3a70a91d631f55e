"""What one chip does in one step: FLOPs and bytes of every operator, for decode and for prefill.

A step decodes one position (and its drafts) of every resident request, or prefills a chunk of
prompt tokens. All figures are for the busiest chip and summed over the layers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from dougong.config import V3Config, V4Config
from dougong.plan.kv import attended_keys, index_key_bytes, kv_entry_bytes
from dougong.plan.layout import Layout, stored_format
from dougong.plan.overlap import pair_bytes
from dougong.plan.precision import STORED_BYTES, Precision
from dougong.plan.weights import CSA_RATIO, ModelConfig, Weight, grouped_weights, layer_kinds

Routing = Literal["balanced", "uniform"]
GEMM_ROWS = 16  # fewest rows a matrix unit multiplies (Ascend cube 16, tensor cores 16); pads up
QUERY_TILE = 64  # queries of a prompt that share one gather of picked entries, as FlashMLA tiles

# Kernel launches of one layer, counted from design.md 3.1's operators: mHC 4, norms 2, projections
# and rotation 4, attention 1, output 2, router 1, experts 2, shared 2, dispatch and combine 2;
# compressors add 2, the indexer 5, MLA loses mHC and joins the norms.
CALLS_PER_LAYER = {"swa": 20, "hca": 22, "csa": 27, "mla": 16, "dsa": 21}
DRAFT_CALLS = 24  # a window layer, its two input projections, the head and the sampling


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of the engine: how much work arrives at once.

    Decode: `requests` on the whole replica, each with 1 + `drafts` positions, at `context_len`.
    Prefill: `requests` prompts of which `chunk` new tokens each are processed, the last of them at
    `context_len`.
    """

    context_len: int
    requests: int
    drafts: int = 0
    chunk: int = 0
    routing: Routing = "uniform"

    @property
    def positions(self) -> int:
        """New tokens per request."""
        return self.chunk or 1 + self.drafts


@dataclass(frozen=True, kw_only=True)
class Operator:
    """One kind of work on one chip: FLOPs in a compute format, bytes from memory, launches."""

    name: str
    compute: str
    flops: float = 0.0
    weight_bytes: float = 0.0
    cache_bytes: float = 0.0
    activation_bytes: float = 0.0
    calls: float = 0.0

    @property
    def memory_bytes(self) -> float:
        """All bytes that pass the memory bus."""
        return self.weight_bytes + self.cache_bytes + self.activation_bytes


@dataclass(frozen=True, kw_only=True)
class Work:
    """A step's operators and its traffic and selections, on the busiest chip.

    `expert_link_bytes` are sent and received for dispatch and combine, `group_link_bytes` in
    tensor-parallel sums; `selections` counts queries times entries that a top-k scans, and
    `selecting` how many queries it scans for at once.
    """

    operators: tuple[Operator, ...]
    expert_link_bytes: float
    group_link_bytes: float
    selections: float
    selecting: float


_PARTS = {
    "attention": "attention projections",
    "compressor": "compressors",
    "indexer": "indexer projections",
    "router": "router",
    "shared_expert": "shared experts",
    "dense_mlp": "dense layers",
    "hyper_connection": "hyper-connections",
    "mtp": "draft projections",
    "head": "head",
}


def _padded(rows: float) -> float:
    return math.ceil(rows / GEMM_ROWS) * GEMM_ROWS if rows > 0 else 0.0


def _matmul(weight: Weight, precision: Precision) -> str:
    stored = stored_format(weight, precision)
    return precision.linear_compute if stored == precision.linear_stored else "bf16"


def _dense(
    weights: Iterable[tuple[Weight, float]], step: Step, layout: Layout, precision: Precision
) -> Iterator[Operator]:
    """Every matrix but the routed experts'."""
    requests = -(-step.requests // layout.dp)
    for weight, layers in weights:
        if not weight.is_matmul or weight.group == "routed_expert":
            continue
        rows, share = requests * step.positions / layout.cp, layout.tp
        if weight.group == "head":  # split over all chips; prefill needs its last positions only
            rows, share = step.requests * (1 if step.chunk else step.positions), layout.chips
        matrices = layers * weight.count / share
        size = weight.rows * weight.columns
        yield Operator(
            name=_PARTS[weight.group],
            compute=_matmul(weight, precision),
            flops=2 * size * matrices * _padded(rows),
            weight_bytes=size * matrices * STORED_BYTES[stored_format(weight, precision)],
            activation_bytes=2 * rows * (weight.rows + weight.columns) * matrices,
        )


def _streams(config: ModelConfig, step: Step, layout: Layout, layers: int) -> Iterator[Operator]:
    """mHC's traffic: (4n + 4) h values per token and sublayer (arXiv 2512.24880)."""
    if isinstance(config, V4Config):
        per_token = (4 * config.hc_mult + 4) * config.hidden_size * 2
        tokens = -(-step.requests // layout.dp) * step.positions / layout.cp / layout.tp
        traffic = 2 * layers * tokens * per_token
        yield Operator(name="hyper-connections", compute="bf16", activation_bytes=traffic)


def expert_load(config: ModelConfig, step: Step, layout: Layout) -> tuple[float, float, float]:
    """(token-expert pairs, experts touched, pairs of the busiest) on one chip in one MoE layer.

    "balanced" spreads pairs evenly, as vendors' tables force it; "uniform" draws experts at random:
    a chip expects local * (1 - (1 - k/E)^tokens) of them, and the busiest chip of R gets about
    sqrt(2 ln R / pairs) more than the mean.
    """
    experts, top_k = config.n_routed_experts, config.num_experts_per_tok
    local = experts / min(layout.ep, experts)
    tokens = step.requests * step.positions
    pairs = tokens * top_k / layout.ep
    if step.routing == "balanced":
        return pairs, min(local, max(pairs, min(local, 1.0))), pairs
    touched = local * (1 - (1 - top_k / experts) ** tokens)
    excess = math.sqrt(2 * math.log(layout.ep) / pairs) if layout.ep > 1 and pairs > 0 else 0.0
    return pairs, touched, pairs * (1 + min(1.0, excess))


def moe_layers(config: ModelConfig) -> int:
    """Main layers with routed experts: all of V4's, all but the first three of V3's."""
    dense = config.first_k_dense_replace if isinstance(config, V3Config) else 0
    return config.num_hidden_layers - dense


def _routed(
    config: ModelConfig, step: Step, layout: Layout, precision: Precision, layers: int
) -> Operator:
    pairs, touched, busiest = expert_load(config, step, layout)
    h, d = config.hidden_size, config.moe_intermediate_size
    rows = touched * _padded(busiest / touched) if touched else 0.0
    return Operator(
        name="routed experts",
        compute=precision.expert_compute,
        flops=layers * 6 * h * d * rows,
        weight_bytes=layers * touched * 3 * h * d * STORED_BYTES[precision.expert_stored],
        activation_bytes=layers * pairs * (h + 2 * d + 2 * h),  # as DeepGEMM's benchmark counts
    )


def _context_mean(step: Step) -> int:
    """Mean context of a step's positions: half a chunk before its end in prefill."""
    return max(1, step.context_len - step.chunk // 2)


def _attention(config: ModelConfig, step: Step, layout: Layout, precision: Precision) -> Operator:
    """Scores and values against the cache.

    Sparse picks are gathered for each tile of queries, dense parts read once per request.
    """
    context = _context_mean(step)
    requests = -(-step.requests // layout.dp)
    tokens = requests * step.positions / layout.cp
    keys, heads = attended_keys(config, context), config.num_attention_heads / layout.tp
    width = _value_width(config, step)
    layers = sum(kind in ("csa", "dsa") for kind in layer_kinds(config))
    entries = context // CSA_RATIO if isinstance(config, V4Config) else context
    picks = min(config.index_topk or 0, entries)
    tile = min(step.positions, QUERY_TILE)
    gathered = math.ceil(step.positions / layout.cp / tile) * min(tile * picks, entries)
    read = sum(keys) - layers * picks + layers * gathered
    return Operator(
        name="attention",
        compute=precision.attention_compute,
        flops=2 * tokens * heads * width * sum(keys),
        cache_bytes=requests * read * kv_entry_bytes(config, precision.kv_format),
        activation_bytes=2 * tokens * heads * width * len(keys),  # queries in, values out, BF16
    )


def _value_width(config: ModelConfig, step: Step) -> int:
    """Score plus value channels per head: V3 decodes absorbed (576 + 512), prefills (192 + 128)."""
    if isinstance(config, V4Config):
        return 2 * config.head_dim
    if step.chunk:
        return config.qk_nope_head_dim + config.qk_rope_head_dim + config.v_head_dim
    return 2 * config.kv_lora_rank + config.qk_rope_head_dim


def _index(
    config: ModelConfig, step: Step, layout: Layout, precision: Precision
) -> tuple[Operator | None, float]:
    """The indexers' scores, and how many (query, entry) pairs their top-k scans on one chip."""
    kinds = layer_kinds(config)
    layers = kinds.count("csa") + kinds.count("dsa")
    if not layers:
        return None, 0.0
    context = _context_mean(step)
    entries = context // CSA_RATIO if isinstance(config, V4Config) else context
    requests = -(-step.requests // layout.dp)
    tokens = requests * step.positions / layout.cp
    per_key = (config.index_n_heads or 0) * (config.index_head_dim or 0)
    operator = Operator(
        name="index scores",
        compute=precision.index_compute,
        flops=2.0 * layers * per_key * entries * tokens / layout.tp,
        cache_bytes=layers * entries * requests * index_key_bytes(config, precision.index_format),
        activation_bytes=4.0 * layers * entries * tokens / layout.tp,  # FP32 scores, written once
    )
    return operator, layers * entries * tokens


def _merge(operators: list[Operator]) -> tuple[Operator, ...]:
    """Operators of one name and compute format as one."""
    merged: dict[tuple[str, str], Operator] = {}
    for one in operators:
        key = (one.name, one.compute)
        old = merged.get(key, Operator(name=one.name, compute=one.compute))
        merged[key] = Operator(
            name=one.name,
            compute=one.compute,
            flops=old.flops + one.flops,
            weight_bytes=old.weight_bytes + one.weight_bytes,
            cache_bytes=old.cache_bytes + one.cache_bytes,
            activation_bytes=old.activation_bytes + one.activation_bytes,
            calls=old.calls + one.calls,
        )
    return tuple(merged.values())


def step_calls(config: ModelConfig, layout: Layout) -> float:
    """Kernel launches of one pass through the main layers; tensor parallelism adds two a layer."""
    calls = sum(CALLS_PER_LAYER[kind] for kind in layer_kinds(config))
    return calls + (2 * config.num_hidden_layers if layout.tp > 1 else 0)


@lru_cache(maxsize=4096)
def main_work(config: ModelConfig, step: Step, layout: Layout, precision: Precision) -> Work:
    """One pass of the main model over `step`."""
    layers = config.num_hidden_layers
    index, selections = _index(config, step, layout, precision)
    operators = [
        *_dense(grouped_weights(config, "main"), step, layout, precision),
        *_streams(config, step, layout, layers),
        _routed(config, step, layout, precision, moe_layers(config)),
        _attention(config, step, layout, precision),
        *([index] if index else []),
        Operator(name="launches", compute="bf16", calls=step_calls(config, layout)),
    ]
    tokens = -(-step.requests // layout.dp) * step.positions / layout.cp
    return Work(
        operators=_merge(operators),
        expert_link_bytes=_expert_bytes(config, step, layout, moe_layers(config)),
        group_link_bytes=_group_bytes(config, layout, tokens, layers),
        selections=selections,
        selecting=max(1.0, tokens),
    )


@lru_cache(maxsize=4096)
def draft_work(
    config: ModelConfig, step: Step, layout: Layout, precision: Precision
) -> Work | None:
    """One draft pass: an MTP block (window attention, experts) and the shared head, one position
    a request. None when nothing is drafted or the model has no MTP block."""
    if not step.drafts or not config.num_nextn_predict_layers:
        return None
    one = replace(step, drafts=0)
    head = [pair for pair in grouped_weights(config, "main") if pair[0].group == "head"]
    blocks = config.num_nextn_predict_layers
    block = [(weight, layers / blocks) for weight, layers in grouped_weights(config, "mtp")]
    operators = [
        *_dense([*block, *head], one, layout, precision),
        *_streams(config, one, layout, 1),
        _routed(config, one, layout, precision, 1),
        Operator(name="launches", compute="bf16", calls=DRAFT_CALLS),
    ]
    return Work(
        operators=_merge(operators),
        expert_link_bytes=_expert_bytes(config, one, layout, 1),
        group_link_bytes=_group_bytes(config, layout, float(-(-step.requests // layout.dp)), 1),
        selections=0.0,
        selecting=1.0,
    )


def _expert_bytes(config: ModelConfig, step: Step, layout: Layout, layers: int) -> float:
    """Dispatch (1 byte a value) and combine (BF16) of the pairs that leave a chip."""
    _, _, busiest = expert_load(config, step, layout)
    remote = (layout.ep - 1) / layout.ep
    return layers * busiest * remote * pair_bytes(config.hidden_size)


def _group_bytes(config: ModelConfig, layout: Layout, tokens: float, layers: int) -> float:
    """Two BF16 all-reduces a layer inside a tensor-parallel group, as a ring moves them."""
    if layout.tp == 1:
        return 0.0
    return layers * 2 * 2 * (layout.tp - 1) / layout.tp * tokens * config.hidden_size * 2
