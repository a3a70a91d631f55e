"""Configurations: three dialects say the same, every field is checked, nothing is guessed."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from dougong.config import (
    PRESETS,
    QuantizationConfig,
    RopeScaling,
    V3Config,
    V4Config,
    config_from_dict,
    load_config,
)
from dougong.errors import ConfigError

GOLDEN = Path(__file__).parents[1] / "parity" / "golden"


def published(name: str = "sq1_csa_hash") -> dict[str, Any]:
    return json.loads((GOLDEN / name / "config.json").read_text())


def inference_flash() -> dict[str, Any]:
    """The keys of the released inference/config.json of V4-Flash (architecture.md 1.1)."""
    return {
        "vocab_size": 129280, "dim": 4096, "moe_inter_dim": 2048, "n_layers": 43,
        "n_hash_layers": 3, "n_heads": 64, "n_routed_experts": 256, "n_shared_experts": 1,
        "n_activated_experts": 6, "score_func": "sqrtsoftplus", "route_scale": 1.5,
        "swiglu_limit": 10.0, "q_lora_rank": 1024, "head_dim": 512, "rope_head_dim": 64,
        "o_groups": 8, "o_lora_rank": 1024, "window_size": 128, "original_seq_len": 65536,
        "rope_theta": 10000, "rope_factor": 16, "beta_fast": 32, "beta_slow": 1,
        "index_n_heads": 64, "index_head_dim": 128, "index_topk": 512, "hc_mult": 4,
        "hc_sinkhorn_iters": 20, "dtype": "fp8", "scale_fmt": "ue8m0", "expert_dtype": "fp4",
        "compress_rope_theta": 160000, "compress_ratios": [0, 0] + [4, 128] * 20 + [4, 0],
    }  # fmt: skip


def test_every_preset_is_valid_and_survives_its_own_dialect() -> None:
    for name in PRESETS:
        config = load_config(name)
        assert config_from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_flash_is_the_same_in_the_inference_dialect() -> None:
    """What the file leaves to ModelArgs' defaults (norm_eps, n_mtp_layers, hc_eps) included."""
    assert V4Config.from_dict(inference_flash()) == load_config("v4-flash")


def test_inference_dialect_without_yarn_or_quantization() -> None:
    values = inference_flash() | {"original_seq_len": 0, "dtype": "bf16", "expert_dtype": None}
    config = V4Config.from_dict(values)
    assert config.rope_scaling is None
    assert not config.quantized


def test_inference_dialect_of_a_base_model_has_fp8_experts() -> None:
    config = V4Config.from_dict(inference_flash() | {"expert_dtype": None})
    assert config.expert_dtype == "fp8"


@pytest.mark.parametrize("key", ["n_layers", "route_scale", "swiglu_limit", "compress_rope_theta"])
def test_python_class_defaults_of_the_released_code_are_not_assumed(key: str) -> None:
    values = inference_flash()
    del values[key]
    with pytest.raises(ConfigError, match=f"^{key} is missing"):
        V4Config.from_dict(values)


@pytest.mark.parametrize("name", sorted(p.name for p in GOLDEN.iterdir() if p.is_dir()))
def test_golden_configs_round_trip(name: str) -> None:
    config = load_config(GOLDEN / name)
    assert V4Config.from_dict(config.to_dict()) == config
    assert load_config(GOLDEN / name / "config.json") == config


def test_published_config_is_written_with_the_keys_of_the_release() -> None:
    """All but `use_cache`, which says nothing about the model."""
    written = load_config(GOLDEN / "sq1_csa_hash").to_dict()
    assert {**written, "use_cache": True} == published()


def transformers_dialect() -> dict[str, Any]:
    """As transformers 5.23.0 saves s4_mixed_mtp: recorded from its save_pretrained, not by hand."""
    return json.loads(
        (GOLDEN.parents[1] / "unit" / "data" / "transformers_config.json").read_text()
    )


def test_transformers_dialect_says_what_the_published_one_says() -> None:
    assert V4Config.from_dict(transformers_dialect()) == load_config(GOLDEN / "s4_mixed_mtp")


def test_transformers_moves_expert_dtype_into_the_quantization_config() -> None:
    values = published()
    values["quantization_config"]["expert_dtype"] = values.pop("expert_dtype")
    assert V4Config.from_dict(values) == load_config(GOLDEN / "sq1_csa_hash")


def test_partial_rotary_factor_alone_gives_the_rope_dim() -> None:
    values = transformers_dialect()
    del values["qk_rope_head_dim"]
    assert V4Config.from_dict(values).qk_rope_head_dim == 16


def test_irrelevant_keys_of_other_tools_are_accepted() -> None:
    """Trap 33: community variants carry V3's shapes along."""
    extras = {"kv_lora_rank": 512, "n_group": 8, "qk_nope_head_dim": 448, "auto_map": {}}
    assert V4Config.from_dict(published() | extras) == V4Config.from_dict(published())


V4_REFUSALS = [
    # field changed, its value, what the message must name, what it must say is allowed
    ("vocab_size", 0, "vocab_size is 0", "1 to"),
    ("vocab_size", 2**40, "vocab_size is", "1 to 16,777,216"),
    ("hidden_size", "128", "hidden_size is 128", "an integer"),
    ("hidden_size", True, "hidden_size is True", "an integer"),
    ("hidden_size", 128.0, "hidden_size is 128.0", "an integer"),
    ("num_hidden_layers", -1, "num_hidden_layers is -1", "1 to"),
    ("rms_norm_eps", float("inf"), "rms_norm_eps is inf", "a number"),
    ("rms_norm_eps", 0, "rms_norm_eps is 0", "1e-30 to 0.1"),
    ("rope_theta", "10000", "rope_theta is 10000", "a number"),
    ("swiglu_limit", -1.0, "swiglu_limit is -1.0", "0.0 to"),
    ("num_attention_heads", 5, "num_attention_heads is 5", "multiple of o_groups"),
    ("qk_rope_head_dim", 63, "qk_rope_head_dim is 63", "even"),
    ("qk_rope_head_dim", 256, "qk_rope_head_dim is 256", "at most head_dim"),
    ("index_head_dim", 96, "index_head_dim is 96", "power of two"),
    ("index_head_dim", 32, "qk_rope_head_dim is 64", "at most index_head_dim"),
    ("num_experts_per_tok", 5, "num_experts_per_tok is 5", "at most n_routed_experts"),
    ("num_hash_layers", 4, "num_hash_layers is 4", "at most num_hidden_layers"),
    ("n_routed_experts", 2**19, "n_routed_experts is 524288", "over all"),
    ("n_shared_experts", 2, "n_shared_experts is 2", "1"),
    ("compress_ratios", [0, 4], r"len\(compress_ratios\) is 2", "3: num_hidden_layers"),
    ("compress_ratios", [0, 4, 2], r"compress_ratios\[2\] is 2", "0 .* 4 .* or 128"),
    ("compress_ratios", [0, 4, False], r"compress_ratios\[2\] is False", "0 .* 4 .* or 128"),
    ("compress_ratios", "0,4", "compress_ratios is 0,4", "a list"),
    ("compress_ratios", None, "compress_ratios is None", "a list"),
    ("eos_token_id", 160, "eos_token_id is 160", r"below vocab_size \(160\)"),
    ("eos_token_id", [1, 2], r"eos_token_id is \[1, 2\]", "an integer"),
    ("torch_dtype", "int8", "torch_dtype is int8", "'bfloat16' or"),
    ("expert_dtype", "int4", "expert_dtype is int4", "'fp4' or 'fp8'"),
    ("hidden_act", "gelu", "hidden_act is gelu", "'silu'"),
    ("scoring_func", "sigmoid", "scoring_func is sigmoid", "'sqrtsoftplus'"),
    ("norm_topk_prob", False, "norm_topk_prob is False", "True"),
    ("num_key_value_heads", 4, "num_key_value_heads is 4", "1"),
    ("tie_word_embeddings", True, "tie_word_embeddings is True", "False"),
    ("model_type", "llama", "model_type is llama", "deepseek_v4"),
    ("dtype", "float32", "torch_dtype is bfloat16", "float32, as dtype says"),
    ("layer_types", ["sliding_attention"] * 3, "compress_ratios is", "as layer_types says"),
    ("layer_types", 5, "layer_types is 5", "a list"),
    ("layer_types", [[]] * 3, r"layer_types\[0\] is \[\]", "sliding_attention"),
    ("rope_parameters", "yarn", "rope_parameters is yarn", "an object"),
    ("rope_scaling", {"type": ["yarn"]}, "rope_scaling.type is", "'yarn'"),
    ("x\ny", 5, r"'x\\ny' is 5", "no such field"),
    ("layer_types", ["sliding_attention"], r"len\(layer_types\) is 1", "num_hidden_layers"),
    ("layer_types", ["full_attention"] * 3, r"layer_types\[0\] is full_attention", "sliding"),
    ("mlp_layer_types", ["moe"] * 3, "num_hash_layers is 1", "0, as mlp_layer_types says"),
    ("mlp_layer_types", ["moe", "hash_moe", "moe"], "mlp_layer_types is hash_moe", "'moe'"),
    ("partial_rotary_factor", 0.25, "partial_rotary_factor is 0.25", r"qk_rope_head_dim \(64\)"),
    ("rope_parameters", {"rope_theta": 5.0}, "rope_theta is 10000", "5.0, as rope_parameters"),
    ("rope_scaling", {"type": "linear", "factor": 2}, "rope_scaling.type is", "'yarn'"),
    ("rope_scaling", {"type": "yarn"}, "rope_scaling.factor is missing", "no default"),
    ("rope_scaling", [16], "rope_scaling is", "an object"),
    ("quantization_config", {"bits": 4}, "quantization_config.bits is 4", "no such field"),
    ("hiden_size", 128, "hiden_size is 128", "is it hidden_size"),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value", "names", "allowed"), V4_REFUSALS)
def test_a_wrong_v4_field_is_refused_by_name(
    field: str, value: Any, names: str, allowed: str
) -> None:
    names = names.replace(" is ", " is '?")  # text is shown in quotes
    with pytest.raises(ConfigError, match=f"{names}.*{allowed}") as refusal:
        V4Config.from_dict(published() | {field: value})
    assert "\n" not in str(refusal.value)


V3_REFUSALS = [
    ("qk_rope_head_dim", 63, "qk_rope_head_dim is 63", "even"),
    ("first_k_dense_replace", 62, "first_k_dense_replace is 62", "at most num_hidden_layers"),
    ("n_group", 7, "n_routed_experts is 256", r"multiple of n_group \(7\)"),
    ("topk_group", 9, "topk_group is 9", "at most n_group"),
    ("num_experts_per_tok", 129, "num_experts_per_tok is 129", "128 experts of topk_group"),
    ("index_n_heads", None, "index_n_heads, index_head_dim, index_topk is", "all three"),
    ("q_lora_rank", None, "q_lora_rank is None", "an integer"),
    ("mlp_layer_types", ["sparse"] * 61, "first_k_dense_replace is 3", "0, as mlp_layer_types"),
    ("scoring_func", "softmax", "scoring_func is softmax", "'sigmoid'"),
]


@pytest.mark.parametrize(("field", "value", "names", "allowed"), V3_REFUSALS)
def test_a_wrong_v3_field_is_refused_by_name(
    field: str, value: Any, names: str, allowed: str
) -> None:
    names = names.replace(" is ", " is '?")
    with pytest.raises(ConfigError, match=f"{names}.*{allowed}"):
        V3Config.from_dict(load_config("v3.2").to_dict() | {field: value})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "deepseek_v41"}, "V4.1 is another architecture"),
        ({"text_config": {}}, "V4.1 is another architecture"),
        ({"dspark_block_size": 5}, "DSpark checkpoint"),
    ],
)
def test_relatives_of_v4_are_refused_in_one_sentence(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        config_from_dict(published() | change)


def test_layers_must_be_listed() -> None:
    """Trap 29: transformers' default order is the opposite of both releases'."""
    values = transformers_dialect()
    del values["layer_types"]
    with pytest.raises(ConfigError, match="compress_ratios is missing"):
        V4Config.from_dict(values)


def test_contradictions_of_dataclass_fields_are_refused_without_any_dialect() -> None:
    flash = load_config("v4-flash")
    with pytest.raises(ConfigError, match="expert_dtype is 'fp4'; allowed: none without"):
        dataclasses.replace(flash, quantization_config=None)
    with pytest.raises(ConfigError, match="scale_fmt is None; allowed: 'ue8m0'"):
        dataclasses.replace(flash, quantization_config=QuantizationConfig(scale_fmt=None))
    with pytest.raises(ConfigError, match="compress_ratios is .*; allowed: 0 for every MTP"):
        dataclasses.replace(flash, compress_ratios=(*flash.compress_ratios[:-1], 4))
    with pytest.raises(ConfigError, match="rope_scaling.beta_fast is 1.0"):
        RopeScaling(factor=4, original_max_position_embeddings=64, beta_fast=1.0, beta_slow=2.0)


def test_layer_lookups_of_flash() -> None:
    flash = load_config("v4-flash")
    assert isinstance(flash, V4Config)
    assert [flash.layer_ratio(layer) for layer in (0, 1, 2, 3, 42, 43)] == [0, 0, 4, 128, 4, 0]
    assert [flash.is_hash_layer(layer) for layer in (0, 2, 3)] == [True, True, False]
    assert flash.mtp_ratio == 0


def test_v3_and_v32_differ_by_the_indexer() -> None:
    assert load_config("v3").model_type == "deepseek_v3"
    assert load_config("v3.2").model_type == "deepseek_v32"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"{", "not valid JSON"),
        (b"\xff{}", "not valid JSON"),
        (b"[1]", "holds a JSON list"),
        (b'{"a": 1, "a": 2}', "'a' appears twice"),
        (b'{"rms_norm_eps": NaN}', "NaN is not a JSON number"),
        (b'{"a":' * 100_000, "not valid JSON"),
        (b'{"vocab_size": ' + b"9" * 10_000 + b"}", "not valid JSON"),
        (b"{}", "model_type is missing"),
        (b" " * (2**20 + 1), "larger than"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused_with_its_path(
    tmp_path: Path, text: bytes, said: str
) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(text)
    with pytest.raises(ConfigError, match=said) as refusal:
        load_config(tmp_path)
    assert str(path) in str(refusal.value)


def test_a_word_that_is_no_configuration_lists_the_presets() -> None:
    with pytest.raises(ConfigError, match="v4-flash, v4-pro, v3, v3.2, nano, mini, m97"):
        load_config("v5")


def test_what_transformers_adds_to_a_config_is_accepted_where_it_agrees() -> None:
    values = load_config("v4-flash").to_dict()
    scaling = values["rope_scaling"] | {"rope_theta": 10000}
    added = values | {"rope_scaling": scaling, "eos_token_id": [1], "bos_token_id": None}
    assert config_from_dict(added) == load_config("v4-flash")
    wrong = values | {"rope_scaling": scaling | {"rope_theta": 40000}}
    with pytest.raises(ConfigError, match="rope_scaling.rope_theta is 40000.*10000"):
        config_from_dict(wrong)
