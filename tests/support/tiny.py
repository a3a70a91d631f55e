"""A model of a few thousand weights with a tokenizer of its own, for tests of what surrounds it."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from dougong.chat.train_bpe import save_tokenizer, train_bpe
from dougong.checkpoint import parameters, write_checkpoint
from dougong.config import V3Config, V4Config, load_config
from dougong.model.initialize import initialize
from dougong.model.loading import published_tensors
from dougong.model.transformer import Transformer

TEXTS = [
    "Once upon a time there was a small fox who lived in the snow.",
    "What is 2+3? It is 5. 床前明月光，疑是地上霜。",
]
NUM_TOKENS = 310  # fewer than the embedding has rows, as in the released models


def tiny_config(vocab_size: int = 512) -> V4Config:
    """All three kinds of layers, a hash-routed one and an MTP block; context of 1,024 tokens."""
    return replace(
        load_config("nano"),
        vocab_size=vocab_size,
        hidden_size=32,
        num_hidden_layers=3,
        num_hash_layers=1,
        compress_ratios=(0, 4, 128, 0),
        num_attention_heads=2,
        head_dim=32,
        qk_rope_head_dim=16,
        q_lora_rank=16,
        o_lora_rank=8,
        index_n_heads=2,
        index_head_dim=16,
        index_topk=8,
        n_routed_experts=4,
        moe_intermediate_size=32,
        max_position_embeddings=1024,
        rope_scaling=None,
    )


def tiny_model(seed: int = 0) -> Transformer:
    """The tiny model with seeded random weights, ready to run."""
    return initialize(Transformer(tiny_config()), seed).eval()


def write_tiny_checkpoint(folder: Path, seed: int = 0) -> Path:
    """A folder that `dougong.load` takes: weights, configuration, tokenizer."""
    model = tiny_model(seed)
    write_checkpoint(folder, model.config, published_tensors(model))
    save_tokenizer(train_bpe(TEXTS, NUM_TOKENS), folder)
    return folder


def write_tiny_v3_checkpoint(folder: Path, seed: int = 0) -> Path:
    """A V3.2 model of the same kind, under its published names."""
    config = V3Config(
        vocab_size=512,
        hidden_size=32,
        intermediate_size=48,
        moe_intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        q_lora_rank=16,
        kv_lora_rank=16,
        qk_nope_head_dim=8,
        qk_rope_head_dim=8,
        v_head_dim=8,
        first_k_dense_replace=1,
        n_routed_experts=4,
        num_experts_per_tok=2,
        routed_scaling_factor=2.5,
        index_n_heads=8,
        index_head_dim=16,
        index_topk=8,
        torch_dtype="float32",
    )
    draw = np.random.default_rng(seed)
    tensors = (
        (p.name, draw.normal(size=p.shape).astype(np.float32) / p.shape[-1] ** 0.5)
        for p in parameters(config)
    )
    write_checkpoint(folder, config, tensors)
    save_tokenizer(train_bpe(TEXTS, NUM_TOKENS), folder)
    return folder
