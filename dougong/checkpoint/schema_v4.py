"""The parameters of DeepSeek-V4, in the published order of a block's parts.

Source: model.safetensors.index.json of the released V4-Flash and V4-Pro.
"""

from __future__ import annotations

from collections.abc import Iterator

from dougong.checkpoint.tensors import Parameter
from dougong.config import CSA_RATIO, V4Config


def v4_parameters(config: V4Config) -> Iterator[Parameter]:
    """Every parameter and table of a V4 model: the top, the layers, then the MTP blocks."""
    vocab, hidden = config.vocab_size, config.hidden_size
    yield Parameter("embed.weight", (vocab, hidden))
    for layer in range(config.num_hidden_layers):
        ratio, is_hash = config.layer_ratio(layer), config.is_hash_layer(layer)
        yield from _block(config, f"layers.{layer}.", ratio, is_hash)
    yield Parameter("norm.weight", (hidden,))
    yield Parameter("head.weight", (vocab, hidden))
    yield from _mhc_head(config, "")
    for block in range(config.num_nextn_predict_layers):
        yield from _mtp_block(config, f"mtp.{block}.")


def _mtp_block(config: V4Config, prefix: str) -> Iterator[Parameter]:
    hidden = config.hidden_size
    yield Parameter(f"{prefix}e_proj.weight", (hidden, hidden), "linear")
    yield Parameter(f"{prefix}h_proj.weight", (hidden, hidden), "linear")
    yield Parameter(f"{prefix}enorm.weight", (hidden,))
    yield Parameter(f"{prefix}hnorm.weight", (hidden,))
    yield from _block(config, prefix, config.mtp_ratio, is_hash=False)
    yield Parameter(f"{prefix}norm.weight", (hidden,))
    yield from _mhc_head(config, prefix)


def _block(config: V4Config, prefix: str, ratio: int, is_hash: bool) -> Iterator[Parameter]:
    yield from _attention(config, f"{prefix}attn.", ratio)
    yield Parameter(f"{prefix}attn_norm.weight", (config.hidden_size,))
    yield Parameter(f"{prefix}ffn_norm.weight", (config.hidden_size,))
    yield from _moe(config, f"{prefix}ffn.", is_hash)
    streams = config.hc_mult
    mixes = streams * (2 + streams)  # pre, post and the streams x streams combination
    for part in ("attn", "ffn"):
        shape = (mixes, streams * config.hidden_size)
        yield Parameter(f"{prefix}hc_{part}_fn", shape, "single")
        yield Parameter(f"{prefix}hc_{part}_base", (mixes,), "single")
        yield Parameter(f"{prefix}hc_{part}_scale", (3,), "single")


def _mhc_head(config: V4Config, prefix: str) -> Iterator[Parameter]:
    streams = config.hc_mult
    yield Parameter(f"{prefix}hc_head_fn", (streams, streams * config.hidden_size), "single")
    yield Parameter(f"{prefix}hc_head_base", (streams,), "single")
    yield Parameter(f"{prefix}hc_head_scale", (1,), "single")


def _attention(config: V4Config, prefix: str, ratio: int) -> Iterator[Parameter]:
    hidden, heads, head_dim = config.hidden_size, config.num_attention_heads, config.head_dim
    group_in = heads // config.o_groups * head_dim
    group_out = config.o_groups * config.o_lora_rank
    yield Parameter(f"{prefix}attn_sink", (heads,), "single")
    yield Parameter(f"{prefix}wq_a.weight", (config.q_lora_rank, hidden), "linear")
    yield Parameter(f"{prefix}q_norm.weight", (config.q_lora_rank,))
    yield Parameter(f"{prefix}wq_b.weight", (heads * head_dim, config.q_lora_rank), "linear")
    yield Parameter(f"{prefix}wkv.weight", (head_dim, hidden), "linear")
    yield Parameter(f"{prefix}kv_norm.weight", (head_dim,))
    yield Parameter(f"{prefix}wo_a.weight", (group_out, group_in), "linear")
    yield Parameter(f"{prefix}wo_b.weight", (hidden, group_out), "linear")
    if ratio:
        yield from _compressor(f"{prefix}compressor.", hidden, head_dim, ratio)
    if ratio == CSA_RATIO:
        index_heads, index_dim = config.index_n_heads, config.index_head_dim
        indexer, index_rows = f"{prefix}indexer.", index_heads * index_dim
        yield Parameter(f"{indexer}wq_b.weight", (index_rows, config.q_lora_rank), "linear")
        yield Parameter(f"{indexer}weights_proj.weight", (index_heads, hidden))
        yield from _compressor(f"{indexer}compressor.", hidden, index_dim, ratio)


def _compressor(prefix: str, hidden: int, dim: int, ratio: int) -> Iterator[Parameter]:
    width = 2 * dim if ratio == CSA_RATIO else dim  # CSA overlaps: previous and current window
    yield Parameter(f"{prefix}ape", (ratio, width), "single")
    yield Parameter(f"{prefix}wkv.weight", (width, hidden))
    yield Parameter(f"{prefix}wgate.weight", (width, hidden))
    yield Parameter(f"{prefix}norm.weight", (dim,))


def _moe(config: V4Config, prefix: str, is_hash: bool) -> Iterator[Parameter]:
    hidden, inter, experts = (
        config.hidden_size,
        config.moe_intermediate_size,
        config.n_routed_experts,
    )
    yield Parameter(f"{prefix}gate.weight", (experts, hidden))
    if is_hash:
        table = (config.vocab_size, config.num_experts_per_tok)
        yield Parameter(f"{prefix}gate.tid2eid", table, "table")
    else:
        yield Parameter(f"{prefix}gate.bias", (experts,), "single")
    shapes = {"w1": (inter, hidden), "w2": (hidden, inter), "w3": (inter, hidden)}
    for expert in range(experts):
        for matrix, shape in shapes.items():
            yield Parameter(f"{prefix}experts.{expert}.{matrix}.weight", shape, "expert")
    for matrix, shape in shapes.items():
        yield Parameter(f"{prefix}shared_experts.{matrix}.weight", shape, "linear")
