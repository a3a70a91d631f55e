"""A model of a few thousand weights with a tokenizer of its own, for tests of what surrounds it."""

from dataclasses import replace
from pathlib import Path

from dougong.chat.train_bpe import save_tokenizer, train_bpe
from dougong.checkpoint import write_checkpoint
from dougong.config import V4Config, load_config
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
