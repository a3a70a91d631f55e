"""The parameters of DeepSeek-V3 and V3.2 under their published names, for comparison with V4.

The multi-token prediction layers are numbered behind the main ones (`model.layers.61`), and carry
copies of the embedding and the head. The counts equal the published checkpoints' (see the tests).
Source: transformers 5.23.0, deepseek_v3 and deepseek_v32.
"""

from __future__ import annotations

from collections.abc import Iterator

from dougong.checkpoint.tensors import Parameter, Role, Shape
from dougong.config import V3Config


def v3_parameters(config: V3Config) -> Iterator[Parameter]:
    """Every parameter of a V3 or V3.2 model: the embedding, the layers, the head, then MTP."""
    vocab, hidden = config.vocab_size, config.hidden_size
    yield Parameter("model.embed_tokens.weight", (vocab, hidden))
    for layer in range(config.num_hidden_layers):
        yield from _block(config, f"model.layers.{layer}.", layer < config.first_k_dense_replace)
    yield Parameter("model.norm.weight", (hidden,))
    yield Parameter("lm_head.weight", (vocab, hidden))
    for block in range(config.num_nextn_predict_layers):
        prefix = f"model.layers.{config.num_hidden_layers + block}."
        yield Parameter(f"{prefix}embed_tokens.weight", (vocab, hidden))
        yield Parameter(f"{prefix}enorm.weight", (hidden,))
        yield Parameter(f"{prefix}hnorm.weight", (hidden,))
        yield Parameter(f"{prefix}eh_proj.weight", (hidden, 2 * hidden))
        yield from _block(config, prefix, is_dense=False)
        yield Parameter(f"{prefix}shared_head.norm.weight", (hidden,))
        yield Parameter(f"{prefix}shared_head.head.weight", (vocab, hidden))


def _block(config: V3Config, prefix: str, is_dense: bool) -> Iterator[Parameter]:
    hidden = config.hidden_size
    yield from _attention(config, f"{prefix}self_attn.")
    yield Parameter(f"{prefix}input_layernorm.weight", (hidden,))
    yield Parameter(f"{prefix}post_attention_layernorm.weight", (hidden,))
    mlp = f"{prefix}mlp."
    if is_dense:
        yield from _swiglu(mlp, hidden, config.intermediate_size, "linear")
        return
    inter = config.moe_intermediate_size
    yield Parameter(f"{mlp}gate.weight", (config.n_routed_experts, hidden))
    yield Parameter(f"{mlp}gate.e_score_correction_bias", (config.n_routed_experts,), "single")
    for expert in range(config.n_routed_experts):
        yield from _swiglu(f"{mlp}experts.{expert}.", hidden, inter, "expert")
    shared = inter * config.n_shared_experts
    yield from _swiglu(f"{mlp}shared_experts.", hidden, shared, "linear")


def _swiglu(prefix: str, hidden: int, inter: int, role: Role) -> Iterator[Parameter]:
    yield Parameter(f"{prefix}gate_proj.weight", (inter, hidden), role)
    yield Parameter(f"{prefix}up_proj.weight", (inter, hidden), role)
    yield Parameter(f"{prefix}down_proj.weight", (hidden, inter), role)


def _attention(config: V3Config, prefix: str) -> Iterator[Parameter]:
    hidden, heads, rope_dim = (
        config.hidden_size,
        config.num_attention_heads,
        config.qk_rope_head_dim,
    )
    q_rank, kv_rank = config.q_lora_rank, config.kv_lora_rank
    linears: dict[str, Shape] = {
        "q_a_proj": (q_rank, hidden),
        "q_b_proj": (heads * (config.qk_nope_head_dim + rope_dim), q_rank),
        "kv_a_proj_with_mqa": (kv_rank + rope_dim, hidden),
        "kv_b_proj": (heads * (config.qk_nope_head_dim + config.v_head_dim), kv_rank),
        "o_proj": (hidden, heads * config.v_head_dim),
    }
    for name, shape in linears.items():
        yield Parameter(f"{prefix}{name}.weight", shape, "linear")
    yield Parameter(f"{prefix}q_a_layernorm.weight", (q_rank,))
    yield Parameter(f"{prefix}kv_a_layernorm.weight", (kv_rank,))
    if config.index_n_heads is None or config.index_head_dim is None:
        return
    index_heads, index_dim, indexer = (
        config.index_n_heads,
        config.index_head_dim,
        f"{prefix}indexer.",
    )
    yield Parameter(f"{indexer}wq_b.weight", (index_heads * index_dim, q_rank), "linear")
    yield Parameter(f"{indexer}wk.weight", (index_dim, hidden), "linear")
    yield Parameter(f"{indexer}k_norm.weight", (index_dim,), "single")
    yield Parameter(f"{indexer}k_norm.bias", (index_dim,), "single")
    yield Parameter(f"{indexer}weights_proj.weight", (index_heads, hidden))
