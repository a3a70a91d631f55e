"""Keys of config.json that are no field of a configuration: fixed, ignored, or renamed (no torch).

Every key that is neither here nor a field of the dataclass is refused.
"""

from __future__ import annotations

from typing import Any

Fields = dict[str, Any]

LAYER_TYPES = {
    "sliding_attention": 0,
    "compressed_sparse_attention": 4,
    "heavily_compressed_attention": 128,
}

# Keys with one legal value, because the architecture knows no other; `to_dict` writes them.
FIXED_V4: Fields = {
    "model_type": "deepseek_v4",
    "hidden_act": "silu",
    "scoring_func": "sqrtsoftplus",
    "topk_method": "noaux_tc",
    "norm_topk_prob": True,
    "num_key_value_heads": 1,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "tie_word_embeddings": False,
}
FIXED_V3: Fields = {
    "hidden_act": "silu",
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "tie_word_embeddings": False,
    "moe_layer_freq": 1,
}
# Allowed where given, never written: only transformers knows these keys.
FIXED_EXTRAS: Fields = {
    "mlp_bias": False,
    "rope_interleave": True,
    "compress_rates": {"compressed_sparse_attention": 4, "heavily_compressed_attention": 128},
}

# Bookkeeping of libraries and of training: no influence on the function that the model computes.
IGNORED = frozenset(
    [
        "_name_or_path",
        "architectures",
        "auto_map",
        "transformers_version",
        "use_cache",
        "ep_size",
        "pretraining_tp",
        "seq_aux",
        "aux_loss_alpha",
        "router_aux_loss_coef",
        "router_jitter_noise",
        "output_router_logits",
        "output_attentions",
        "output_hidden_states",
        "return_dict",
        "return_dict_in_generate",
        "torchscript",
        "is_encoder_decoder",
        "is_decoder",
        "chunk_size_feed_forward",
        "problem_type",
        "id2label",
        "label2id",
        "finetuning_task",
        "tokenizer_class",
        "prefix",
        "pad_token_id",
        "sep_token_id",
        "decoder_start_token_id",
        "cross_attention_hidden_size",
        "add_cross_attention",
        "task_specific_params",
        "_attn_implementation",
        "experts_implementation",
        "_experts_implementation",
        "num_local_experts",
        "qk_head_dim",
    ]
)
# Trap 33: V3's shapes, carried along by community variants of V4's config.json.
IGNORED_V4 = IGNORED | frozenset(
    [
        "kv_lora_rank",
        "n_group",
        "topk_group",
        "qk_nope_head_dim",
        "v_head_dim",
        "intermediate_size",
        "first_k_dense_replace",
        "moe_layer_freq",
    ]
)
IGNORED_V3 = IGNORED | frozenset(["head_dim", "layer_types", "num_key_value_heads"])
IGNORED_ROPE_V4 = frozenset(["mscale", "mscale_all_dim"])  # V4 never scales its logits (trap 3)
IGNORED_QUANTIZATION = frozenset(
    ["modules_to_not_convert", "ignored_layers", "weight_per_tensor", "dequantize"]
)

# `ModelArgs` of inference/model.py; a default only where the released models have that value.
INFERENCE_NAMES = {
    "vocab_size": "vocab_size",
    "dim": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "head_dim": "head_dim",
    "rope_head_dim": "qk_rope_head_dim",
    "q_lora_rank": "q_lora_rank",
    "o_groups": "o_groups",
    "o_lora_rank": "o_lora_rank",
    "window_size": "sliding_window",
    "compress_ratios": "compress_ratios",
    "index_n_heads": "index_n_heads",
    "index_head_dim": "index_head_dim",
    "index_topk": "index_topk",
    "n_routed_experts": "n_routed_experts",
    "n_activated_experts": "num_experts_per_tok",
    "n_shared_experts": "n_shared_experts",
    "moe_inter_dim": "moe_intermediate_size",
    "n_hash_layers": "num_hash_layers",
    "score_func": "scoring_func",
    "route_scale": "routed_scaling_factor",
    "swiglu_limit": "swiglu_limit",
    "hc_mult": "hc_mult",
    "hc_sinkhorn_iters": "hc_sinkhorn_iters",
    "hc_eps": "hc_eps",
    "norm_eps": "rms_norm_eps",
    "n_mtp_layers": "num_nextn_predict_layers",
    "rope_theta": "rope_theta",
    "compress_rope_theta": "compress_rope_theta",
}
INFERENCE_DEFAULTS: Fields = {
    "n_shared_experts": 1,
    "score_func": "sqrtsoftplus",
    "window_size": 128,
    "hc_mult": 4,
    "hc_sinkhorn_iters": 20,
    "hc_eps": 1e-6,
    "norm_eps": 1e-6,
    "n_mtp_layers": 1,
    "rope_theta": 10000.0,
}
IGNORED_INFERENCE = frozenset(["max_batch_size", "max_seq_len", "scale_dtype", "temperature"])
