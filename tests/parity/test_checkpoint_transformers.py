"""Checkpoints travel between Dougong and transformers 5.23.0 in both directions, unchanged."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    DeepseekV4Config,
    DeepseekV32Config,
    DeepseekV32ForCausalLM,
)

from dougong.checkpoint import convert, open_checkpoint
from dougong.config import load_config
from tests.support.goldens import FOLDER, TOLERANCE, expected, wanted

# Sliding, CSA and HCA layers, hash and score routing, MTP; and the published mixed format.
NAMES = ("s4_mixed_mtp", "sq1_csa_hash")
TINY_V3 = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "moe_intermediate_size": 16,
    "num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 2, "q_lora_rank": 16,
    "kv_lora_rank": 24, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 12,
    "n_routed_experts": 4, "n_group": 2, "topk_group": 1, "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
}  # fmt: skip


def dequantized(name: str, tmp_path: Path) -> Path:
    """The golden model in the transformers layout, float32."""
    convert(FOLDER / name, tmp_path / "written", layout="transformers", dtype="float32")
    return tmp_path / "written"


@pytest.mark.parametrize("name", NAMES)
def test_transformers_loads_what_we_write_and_computes_the_golden_logits(
    name: str, tmp_path: Path
) -> None:
    model, report = AutoModelForCausalLM.from_pretrained(
        dequantized(name, tmp_path), output_loading_info=True
    )
    assert not any(report.values()), report
    assert model.dtype == torch.float32
    ids = expected(name)["input_ids"][:1, :280]  # past the window, and two HCA entries
    with torch.no_grad():
        logits = model(ids).logits
    assert (logits - wanted(name, "logits")[:1, :280]).abs().max() < TOLERANCE


def test_what_we_write_is_what_transformers_makes_of_the_published_names(tmp_path: Path) -> None:
    """Parameter by parameter: experts merged in their order, every name mapped, every bit kept."""
    ours = AutoModelForCausalLM.from_pretrained(dequantized("s4_mixed_mtp", tmp_path)).state_dict()
    theirs = AutoModelForCausalLM.from_pretrained(FOLDER / "s4_mixed_mtp").state_dict()
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)


@pytest.mark.parametrize(
    ("options", "dtype", "layout"),
    [
        ({}, torch.float32, "transformers_reverted"),
        ({"save_original_format": False}, torch.float32, "transformers"),
        ({"max_shard_size": "200KB"}, torch.bfloat16, "transformers_reverted"),
    ],
)
def test_what_transformers_saves_loads_here(
    options: dict[str, object], dtype: torch.dtype, layout: str, tmp_path: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(FOLDER / "s4_mixed_mtp", dtype=dtype)
    model.save_pretrained(tmp_path / "saved", **options)
    checkpoint, golden = (
        open_checkpoint(tmp_path / "saved"),
        open_checkpoint(FOLDER / "s4_mixed_mtp"),
    )
    assert checkpoint.layout == layout
    assert checkpoint.mtp_left_out
    stored = {name: checkpoint.info(name).dtype for name in checkpoint.names()}
    assert dtype == torch.float32 or "BF16" in stored.values()
    for name in checkpoint.names():
        exact = torch.from_numpy(golden.read(name))
        if stored[name] == "BF16":  # norms, sinks and mHC stay float32 in transformers too
            exact = exact.bfloat16().float()
        assert np.array_equal(checkpoint.read(name), exact.numpy()), name
    torch_dtype = str(dtype).removeprefix("torch.")
    assert checkpoint.config == replace(
        golden.config,
        torch_dtype=torch_dtype,
        num_nextn_predict_layers=0,
        compress_ratios=golden.config.compress_ratios[:-1],
    )


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.iterdir() if path.is_dir()))
def test_config_that_transformers_saves_is_read_as_the_published_one(
    name: str, tmp_path: Path
) -> None:
    DeepseekV4Config.from_pretrained(FOLDER / name).save_pretrained(tmp_path)
    assert "compress_ratios" not in (tmp_path / "config.json").read_text()
    assert load_config(tmp_path) == load_config(FOLDER / name)


def test_default_config_of_transformers_is_read_with_its_own_layer_order(tmp_path: Path) -> None:
    """Trap 29: two HCA layers, then HCA and CSA in turn; no YaRN."""
    DeepseekV4Config(num_hidden_layers=6).save_pretrained(tmp_path)
    config = load_config(tmp_path)
    assert config.compress_ratios == (128, 128, 128, 4, 128, 4, 0)
    assert config.rope_scaling is None


@pytest.mark.parametrize(
    ("config", "model"),
    [
        (DeepseekV3Config(**TINY_V3), DeepseekV3ForCausalLM),
        (
            DeepseekV32Config(**TINY_V3, index_n_heads=2, index_head_dim=16, index_topk=8),
            DeepseekV32ForCausalLM,
        ),
    ],
)
def test_v3_travels_both_ways(config, model, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = model(config)
    theirs.save_pretrained(tmp_path / "saved")
    convert(tmp_path / "saved", tmp_path / "written")
    again = dict(model.from_pretrained(tmp_path / "written").named_parameters())
    assert all(torch.equal(again[name], tensor) for name, tensor in theirs.named_parameters())


def test_transformers_dequantizes_what_we_quantized_to_the_same_values(tmp_path: Path) -> None:
    """FP4 and FP8 values with power-of-two scales are exact in the BF16 that it widens them to."""
    convert(FOLDER / "s4_mixed_mtp", tmp_path / "written", quantize="fp4+fp8")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "written").state_dict()
    ours = open_checkpoint(tmp_path / "written")
    compared = {
        "attn.wq_a.weight": "self_attn.q_a_proj.weight",
        "attn.wo_b.weight": "self_attn.o_b_proj.weight",
        "attn.indexer.wq_b.weight": "self_attn.compressor.indexer.q_b_proj.weight",
        "ffn.shared_experts.w2.weight": "mlp.shared_experts.down_proj.weight",
    }
    for our_part, their_part in compared.items():
        name = f"layers.4.{our_part}"
        assert ours.info(name).dtype == "F8_E4M3"
        values = theirs[f"model.layers.4.{their_part}"].float().numpy()
        assert np.array_equal(ours.read(name), values), name
    for expert in range(ours.config.n_routed_experts):
        name = f"layers.3.ffn.experts.{expert}.w2.weight"
        assert ours.info(name).dtype == "I8"
        down = theirs["model.layers.3.mlp.experts.down_proj"][expert]
        assert np.array_equal(ours.read(name), down.float().numpy()), name
