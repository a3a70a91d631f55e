"""The inventory of a model's weights: each matrix and vector, its format, how often it is used.

Written from the architecture alone and not from `checkpoint/schema`, so that the two check each
other: both must add up to the released files to the byte. Parameters, checkpoint bytes, FLOPs and
the planner's operators are all sums over this one list.
Source: the released files' index (shapes, stored formats); V3 and V3.2 as in transformers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from dougong.config import V3Config, V4Config

ModelConfig = V4Config | V3Config
Group = Literal[
    "embedding",
    "head",
    "norm",
    "attention",
    "compressor",
    "indexer",
    "hyper_connection",
    "router",
    "routed_expert",
    "shared_expert",
    "dense_mlp",
    "mtp",
]
CSA_RATIO = 4  # the compressor with an indexer; every other non-zero ratio is HCA


@dataclass(frozen=True, kw_only=True)
class Weight:
    """`count` matrices [rows, columns], `active` of them used by a token; vectors: columns 1.

    `stored` is fp4 (block 32), fp8 (block 128x128, UE8M0 scales), fp8_fp32 (V3: FP32 scales), bf16,
    f32 or i64; `layer` is -1 outside the stack and counts MTP blocks on from num_hidden_layers.
    """

    name: str
    group: Group
    layer: int
    rows: int
    columns: int = 1
    count: int = 1
    active: int = 1
    stored: str = "bf16"
    is_matmul: bool = True

    @property
    def parameters(self) -> int:
        """Trained values; the hash routers' token tables (i64) are not parameters."""
        return 0 if self.stored == "i64" else self.rows * self.columns * self.count

    @property
    def active_parameters(self) -> int:
        """Parameters that one token's forward pass reads, without the input embedding."""
        return 0 if self.group == "embedding" else self.parameters // self.count * self.active

    @property
    def stored_bytes(self) -> int:
        """Bytes in the checkpoint, block scales included."""
        size = self.rows * self.columns
        if self.stored == "fp4":
            return self.count * (size // 2 + size // 32)
        if self.stored in ("fp8", "fp8_fp32"):
            blocks = -(-self.rows // 128) * -(-self.columns // 128)
            return self.count * (size + blocks * (1 if self.stored == "fp8" else 4))
        return self.count * size * {"bf16": 2, "f32": 4, "i64": 8}[self.stored]


def layer_kind(config: ModelConfig, layer: int) -> str:
    """ "swa", "csa" or "hca" for V4; "mla" (dense) or "dsa" (V3.2's sparse MLA) for V3."""
    if isinstance(config, V3Config):
        return "dsa" if config.index_topk else "mla"
    ratio = config.compress_ratios[layer]
    return "swa" if ratio == 0 else "csa" if ratio == CSA_RATIO else "hca"


@lru_cache(maxsize=64)
def layer_kinds(config: ModelConfig) -> tuple[str, ...]:
    """The kind of each main layer, in order; MTP blocks are left out."""
    return tuple(layer_kind(config, layer) for layer in range(config.num_hidden_layers))


def _matrix_format(config: ModelConfig) -> str:
    if not config.quantized:
        return "bf16"
    return "fp8" if isinstance(config, V4Config) else "fp8_fp32"


def _v4_attention(config: V4Config, layer: int) -> Iterator[Weight]:
    d, q, c = config.hidden_size, config.q_lora_rank, config.head_dim
    heads, out = config.num_attention_heads, config.o_groups * config.o_lora_rank
    matrices = (
        ("wq_a", q, d),
        ("wq_b", heads * c, q),
        ("wkv", c, d),
        ("wo_a", out, heads * c // config.o_groups),
        ("wo_b", d, out),
    )
    fmt = _matrix_format(config)
    for name, rows, columns in matrices:
        yield Weight(
            name=name, group="attention", layer=layer, rows=rows, columns=columns, stored=fmt
        )
    for name, rows, stored in (
        ("q_norm", q, "bf16"),
        ("kv_norm", c, "bf16"),
        ("sink", heads, "f32"),
    ):
        yield Weight(
            name=name, group="attention", layer=layer, rows=rows, stored=stored, is_matmul=False
        )


def _compressor(
    config: V4Config, layer: int, group: Group, ratio: int, dim: int
) -> Iterator[Weight]:
    width = 2 * dim if ratio == CSA_RATIO else dim  # CSA's blocks overlap: two features per token
    for name in ("compressor.wkv", "compressor.wgate"):
        yield Weight(name=name, group=group, layer=layer, rows=width, columns=config.hidden_size)
    yield Weight(
        name="compressor.ape",
        group=group,
        layer=layer,
        rows=ratio,
        columns=width,
        stored="f32",
        is_matmul=False,
    )
    yield Weight(name="compressor.norm", group=group, layer=layer, rows=dim, is_matmul=False)


def _v4_long_range(config: V4Config, layer: int) -> Iterator[Weight]:
    """Compressor and, in CSA layers, the indexer; nothing in sliding-window layers."""
    ratio = config.compress_ratios[layer]
    if ratio == 0:
        return
    yield from _compressor(config, layer, "compressor", ratio, config.head_dim)
    if ratio != CSA_RATIO:
        return
    index_width = config.index_n_heads * config.index_head_dim
    yield Weight(
        name="indexer.wq_b",
        group="indexer",
        layer=layer,
        rows=index_width,
        columns=config.q_lora_rank,
        stored=_matrix_format(config),
    )
    yield Weight(
        name="indexer.weights_proj",
        group="indexer",
        layer=layer,
        rows=config.index_n_heads,
        columns=config.hidden_size,
    )
    yield from _compressor(config, layer, "indexer", ratio, config.index_head_dim)


def _experts(config: ModelConfig, layer: int, routed_format: str) -> Iterator[Weight]:
    d, wide = config.hidden_size, config.moe_intermediate_size
    routed, shared = config.n_routed_experts, config.n_shared_experts
    for name, rows, columns in (("w1", wide, d), ("w3", wide, d), ("w2", d, wide)):
        yield Weight(
            name=f"experts.{name}",
            group="routed_expert",
            layer=layer,
            rows=rows,
            columns=columns,
            count=routed,
            active=config.num_experts_per_tok,
            stored=routed_format,
        )
        yield Weight(
            name=f"shared_experts.{name}",
            group="shared_expert",
            layer=layer,
            rows=rows,
            columns=columns,
            count=shared,
            active=shared,
            stored=_matrix_format(config),
        )


def _router(config: ModelConfig, layer: int, hashed: bool) -> Iterator[Weight]:
    experts = config.n_routed_experts
    yield Weight(
        name="gate.weight", group="router", layer=layer, rows=experts, columns=config.hidden_size
    )
    if hashed:
        yield Weight(
            name="gate.tid2eid",
            group="router",
            layer=layer,
            rows=config.vocab_size,
            columns=config.num_experts_per_tok,
            stored="i64",
            is_matmul=False,
        )
    else:
        yield Weight(
            name="gate.bias",
            group="router",
            layer=layer,
            rows=experts,
            stored="f32",
            is_matmul=False,
        )


def _hyper_connections(config: V4Config, layer: int) -> Iterator[Weight]:
    n = config.hc_mult
    mixes = n * n + 2 * n
    for place in ("attn", "ffn"):
        yield Weight(
            name=f"hc_{place}_fn",
            group="hyper_connection",
            layer=layer,
            rows=mixes,
            columns=n * config.hidden_size,
            stored="f32",
        )
        yield Weight(
            name=f"hc_{place}_base_scale",
            group="hyper_connection",
            layer=layer,
            rows=mixes + 3,
            stored="f32",
            is_matmul=False,
        )


def _stream_head(config: V4Config, layer: int) -> Iterator[Weight]:
    n = config.hc_mult
    yield Weight(
        name="hc_head_fn",
        group="hyper_connection",
        layer=layer,
        rows=n,
        columns=n * config.hidden_size,
        stored="f32",
    )
    yield Weight(
        name="hc_head_base_scale",
        group="hyper_connection",
        layer=layer,
        rows=n + 1,
        stored="f32",
        is_matmul=False,
    )


def _norms(config: ModelConfig, layer: int, names: tuple[str, ...]) -> Iterator[Weight]:
    for name in names:
        yield Weight(name=name, group="norm", layer=layer, rows=config.hidden_size, is_matmul=False)


def _v4_layer(config: V4Config, layer: int) -> Iterator[Weight]:
    yield from _v4_attention(config, layer)
    yield from _v4_long_range(config, layer)
    yield from _router(config, layer, hashed=layer < config.num_hash_layers)
    yield from _experts(config, layer, config.expert_dtype or _matrix_format(config))
    yield from _hyper_connections(config, layer)
    yield from _norms(config, layer, ("attn_norm", "ffn_norm"))


def _v3_attention(config: V3Config, layer: int) -> Iterator[Weight]:
    d, heads, latent = config.hidden_size, config.num_attention_heads, config.kv_lora_rank
    query_head = config.qk_nope_head_dim + config.qk_rope_head_dim
    matrices = (
        ("q_a_proj", config.q_lora_rank, d),
        ("q_b_proj", heads * query_head, config.q_lora_rank),
        ("kv_a_proj", latent + config.qk_rope_head_dim, d),
        ("kv_b_proj", heads * (config.qk_nope_head_dim + config.v_head_dim), latent),
        ("o_proj", d, heads * config.v_head_dim),
    )
    fmt = _matrix_format(config)
    for name, rows, columns in matrices:
        yield Weight(
            name=name, group="attention", layer=layer, rows=rows, columns=columns, stored=fmt
        )
    for name, rows in (("q_a_norm", config.q_lora_rank), ("kv_a_norm", latent)):
        yield Weight(name=name, group="attention", layer=layer, rows=rows, is_matmul=False)


def _v3_indexer(config: V3Config, layer: int) -> Iterator[Weight]:
    heads, dim = config.index_n_heads or 0, config.index_head_dim or 0
    yield Weight(
        name="indexer.wq_b",
        group="indexer",
        layer=layer,
        rows=heads * dim,
        columns=config.q_lora_rank,
        stored=_matrix_format(config),
    )
    for name, rows in (("indexer.wk", dim), ("indexer.weights_proj", heads)):
        yield Weight(name=name, group="indexer", layer=layer, rows=rows, columns=config.hidden_size)
    # a true LayerNorm: weight and bias
    yield Weight(name="indexer.k_norm", group="indexer", layer=layer, rows=2 * dim, is_matmul=False)


def _v3_layer(config: V3Config, layer: int) -> Iterator[Weight]:
    yield from _v3_attention(config, layer)
    if config.index_topk:
        yield from _v3_indexer(config, layer)
    if layer < config.first_k_dense_replace:
        d, wide = config.hidden_size, config.intermediate_size
        for name, rows, columns in (("w1", wide, d), ("w3", wide, d), ("w2", d, wide)):
            yield Weight(
                name=f"mlp.{name}",
                group="dense_mlp",
                layer=layer,
                rows=rows,
                columns=columns,
                stored=_matrix_format(config),
            )
    else:
        yield from _router(config, layer, hashed=False)
        yield from _experts(config, layer, _matrix_format(config))
    yield from _norms(config, layer, ("input_layernorm", "post_attention_layernorm"))


def layer_weights(config: ModelConfig, layer: int) -> list[Weight]:
    """The weights of main layer `layer`."""
    if isinstance(config, V3Config):
        return list(_v3_layer(config, layer))
    return list(_v4_layer(config, layer))


def main_weights(config: ModelConfig) -> list[Weight]:
    """Every weight of the model without its MTP blocks."""
    table = Weight(
        name="embed",
        group="embedding",
        layer=-1,
        rows=config.vocab_size,
        columns=config.hidden_size,
        is_matmul=False,
    )
    weights = [table, replace(table, name="head", group="head", is_matmul=True)]
    weights += _norms(config, -1, ("norm",))
    if isinstance(config, V4Config):
        weights += _stream_head(config, -1)
    for layer in range(config.num_hidden_layers):
        weights += layer_weights(config, layer)
    return weights


def mtp_weights(config: ModelConfig) -> list[Weight]:
    """The weights of the multi-token-prediction blocks, layers from num_hidden_layers on.

    Embedding and head are shared with the main model. V3's two projections are one matrix
    [d, 2d], V4's are two of [d, d]: the same number of parameters.
    """
    weights: list[Weight] = []
    first, d = config.num_hidden_layers, config.hidden_size
    for layer in range(first, first + config.num_nextn_predict_layers):
        weights += layer_weights(config, layer)
        weights += _norms(config, layer, ("enorm", "hnorm", "norm"))
        if isinstance(config, V4Config):
            weights += _stream_head(config, layer)
        fmt = _matrix_format(config) if isinstance(config, V4Config) else "bf16"
        projection = Weight(
            name="e_h_proj",
            group="mtp",
            layer=layer,
            rows=d,
            columns=d,
            count=2,
            active=2,
            stored=fmt,
        )
        weights.append(projection)
    return weights


@lru_cache(maxsize=64)
def grouped_weights(
    config: ModelConfig, part: Literal["main", "mtp"]
) -> tuple[tuple[Weight, int], ...]:
    """The inventory with equal lines of different layers merged: (weight, how many layers)."""
    lines = main_weights(config) if part == "main" else mtp_weights(config)
    return tuple(Counter(replace(line, layer=-1) for line in lines).items())
