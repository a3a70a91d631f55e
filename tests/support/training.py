"""A tiny training run for tests: a small model, a small tokenizer, generators only."""

import json
from pathlib import Path
from typing import Any

from dougong.chat.train_bpe import save_tokenizer, train_bpe
from dougong.train.config import RunConfig, run_config_from_dict
from dougong.train.data.corpus import Corpus
from dougong.train.data.tokenizer import training_texts
from dougong.train.loop import train
from dougong.train.run import Run, open_run

VOCAB_SIZE = 512
MIX = {"stories": 0.3, "arithmetic": 0.3, "talk": 0.4}
BATCH = 512
MODEL = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "head_dim": 32,
    "qk_rope_head_dim": 16,
    "q_lora_rank": 32,
    "o_groups": 2,
    "o_lora_rank": 16,
    "sliding_window": 16,
    "compress_ratios": [4, 128, 0],
    "index_n_heads": 4,
    "index_head_dim": 32,
    "index_topk": 64,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "moe_intermediate_size": 32,
    "num_hash_layers": 1,
    "num_nextn_predict_layers": 1,
    "routed_scaling_factor": 1.5,
    "swiglu_limit": 10.0,
    "hc_sinkhorn_iters": 4,
    "model_type": "deepseek_v4",
    "torch_dtype": "float32",
}


def write_inputs(folder: Path) -> Path:
    """Writes config.json and a tokenizer into `folder`; returns it."""
    texts = training_texts(Corpus(), MIX, seed=0, characters=200_000)
    save_tokenizer(train_bpe(texts, VOCAB_SIZE), folder)
    (folder / "config.json").write_text(json.dumps(MODEL))
    return folder


def values(inputs: Path, folder: Path, steps: int = 8, **schedule: object) -> dict[str, Any]:
    """The run's configuration as nested dictionaries."""
    return {
        "model": str(inputs / "config.json"),
        "data": {
            "tokenizer": str(inputs),
            "micro_tokens": 256,
        },
        "phases": [
            {
                "share": 0.5,
                "max_length": 256,
                "batch_tokens": BATCH,
                "mix": MIX,
            },
            {
                "share": 0.5,
                "max_length": 256,
                "batch_tokens": BATCH,
                "quantized": True,
                "align_index": True,
            },
        ],
        "schedule": {"tokens": BATCH * steps, "warmup": 2, **schedule},
        "output": {"folder": str(folder), "save_every": 3},
    }


def run_config(inputs: Path, folder: Path, steps: int = 8, **schedule: object) -> RunConfig:
    """The same as a checked configuration."""
    return run_config_from_dict(values(inputs, folder, steps, **schedule))


def trained(config: RunConfig) -> Run:
    """The finished run."""
    run = open_run(config, quiet=True)
    train(run)
    return run
