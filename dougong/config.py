"""Model configurations as frozen dataclasses with config.json's own field names (no torch).

`V4Config` describes DeepSeek-V4 (Flash, Pro, and our nano and mini); `V3Config` describes V3 and
V3.2. Attribute names are the keys of the Hugging Face `config.json`. A configuration that exists is
a valid one: every field is checked when it is built. How the three dialects of config.json are
read and written is in `config_dialects`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from dougong.config_checks import Between, OneOf, build, check_fields, require
from dougong.config_dialects import published, read_v3, read_v4, refuse_other_models
from dougong.config_json import read_json_object
from dougong.config_keys import FIXED_V3, FIXED_V4
from dougong.errors import ConfigError

CSA_RATIO = 4
HCA_RATIO = 128
MAX_EXPERTS = 2**16  # over all layers; V4-Pro has 62 * 384 = 23,808

PRESETS = ("v4-flash", "v4-pro", "v3", "v3.2", "nano", "mini", "m97")
_PRESET_FOLDER = Path(__file__).parent / "data" / "presets"
_MAX_CONFIG_BYTES = 2**20

Count = Annotated[int, Between(1, 2**20)]
CountOrZero = Annotated[int, Between(0, 2**20)]
Layers = Annotated[int, Between(1, 1024)]
Epsilon = Annotated[float, Between(1e-30, 0.1)]
Theta = Annotated[float, Between(1.0, 1e12)]
Dtype = Annotated[str, OneOf("bfloat16", "float16", "float32")]


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """YaRN parameters (`rope_scaling` of config.json); V4 has no mscale, V3 has 1.0 and 1.0."""

    factor: Annotated[float, Between(1.0, 1e6)]
    original_max_position_embeddings: Annotated[int, Between(1, 2**40)]
    beta_fast: Annotated[float, Between(1e-6, 1e6)] = 32.0
    beta_slow: Annotated[float, Between(1e-6, 1e6)] = 1.0
    mscale: Annotated[float, Between(0.0, 100.0)] = 0.0
    mscale_all_dim: Annotated[float, Between(0.0, 100.0)] = 0.0

    def __post_init__(self) -> None:
        check_fields(self, prefix="rope_scaling.")
        require(
            self.beta_fast >= self.beta_slow,
            "rope_scaling.beta_fast",
            self.beta_fast,
            f"at least beta_slow ({self.beta_slow})",
        )


@dataclass(frozen=True, kw_only=True)
class QuantizationConfig:
    """How a checkpoint's linears are stored: FP8 E4M3 with one scale per 128x128 block.

    `scale_fmt` "ue8m0" is a power of two in one byte (all of V4); None is V3's float32 scale.
    """

    quant_method: Annotated[str, OneOf("fp8")] = "fp8"
    fmt: Annotated[str, OneOf("e4m3")] = "e4m3"
    activation_scheme: Annotated[str, OneOf("dynamic")] = "dynamic"
    weight_block_size: Annotated[tuple[int, ...], OneOf((128, 128))] = (128, 128)
    scale_fmt: Annotated[str | None, OneOf("ue8m0", None)] = "ue8m0"

    def __post_init__(self) -> None:
        check_fields(self, prefix="quantization_config.")


@dataclass(frozen=True, kw_only=True)
class V4Config:
    """One DeepSeek-V4 model. `compress_ratios` has one entry per main layer, then per MTP layer."""

    vocab_size: Annotated[int, Between(1, 2**24)]
    hidden_size: Count
    num_hidden_layers: Layers
    num_attention_heads: Count
    head_dim: Count
    qk_rope_head_dim: Count
    q_lora_rank: Count
    o_groups: Count
    o_lora_rank: Count
    sliding_window: Count
    compress_ratios: tuple[int, ...]
    index_n_heads: Count
    index_head_dim: Count
    index_topk: Count
    n_routed_experts: Count
    num_experts_per_tok: Count
    n_shared_experts: Annotated[int, OneOf(1)] = 1
    moe_intermediate_size: Count
    num_hash_layers: CountOrZero
    routed_scaling_factor: Annotated[float, Between(1e-6, 1e6)]
    swiglu_limit: Annotated[float, Between(0.0, 1e6)]  # 0: no clamp
    hc_mult: Annotated[int, Between(1, 64)] = 4
    hc_sinkhorn_iters: Annotated[int, Between(1, 1000)] = 20
    hc_eps: Epsilon = 1e-6
    rms_norm_eps: Epsilon = 1e-6
    num_nextn_predict_layers: Annotated[int, Between(0, 16)] = 0
    rope_theta: Theta = 10000.0
    compress_rope_theta: Theta = 160000.0
    rope_scaling: RopeScaling | None = None
    max_position_embeddings: Annotated[int, Between(1, 2**40)] = 1048576
    bos_token_id: CountOrZero = 0
    eos_token_id: CountOrZero = 1
    initializer_range: Annotated[float, Between(0.0, 10.0)] = 0.02
    torch_dtype: Dtype = "bfloat16"
    expert_dtype: Annotated[str | None, OneOf("fp4", "fp8", None)] = None
    quantization_config: QuantizationConfig | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        _check_rope_dim(self.qk_rope_head_dim, "head_dim", self.head_dim)
        _check_rope_dim(self.qk_rope_head_dim, "index_head_dim", self.index_head_dim)
        _check_experts(self)
        self._check_layers()
        require(
            self.num_attention_heads % self.o_groups == 0,
            "num_attention_heads",
            self.num_attention_heads,
            f"a multiple of o_groups ({self.o_groups})",
        )
        require(
            self.index_head_dim & (self.index_head_dim - 1) == 0,
            "index_head_dim",
            self.index_head_dim,
            "a power of two (the Hadamard transform)",
        )
        self._check_quantization()

    def _check_layers(self) -> None:
        expected = self.num_hidden_layers + self.num_nextn_predict_layers
        require(
            len(self.compress_ratios) == expected,
            "len(compress_ratios)",
            len(self.compress_ratios),
            f"{expected}: num_hidden_layers + num_nextn_predict_layers",
        )
        for layer, ratio in enumerate(self.compress_ratios):
            require(
                type(ratio) is int and ratio in (0, CSA_RATIO, HCA_RATIO),
                f"compress_ratios[{layer}]",
                ratio,
                "0 (sliding window), 4 (CSA) or 128 (HCA)",
            )
        require(
            self.num_hash_layers <= self.num_hidden_layers,
            "num_hash_layers",
            self.num_hash_layers,
            f"at most num_hidden_layers ({self.num_hidden_layers})",
        )
        require(
            not any(self.compress_ratios[self.num_hidden_layers :]),
            "compress_ratios",
            self.compress_ratios[self.num_hidden_layers :],
            "0 for every MTP layer",
        )

    def _check_quantization(self) -> None:
        if self.quantization_config is None:
            require(
                self.expert_dtype is None,
                "expert_dtype",
                self.expert_dtype,
                "none without a quantization_config",
            )
        else:
            scale_fmt = self.quantization_config.scale_fmt
            require(scale_fmt == "ue8m0", "quantization_config.scale_fmt", scale_fmt, "'ue8m0'")

    @property
    def model_type(self) -> str:
        """`model_type` of config.json."""
        return "deepseek_v4"

    @property
    def quantized(self) -> bool:
        """Whether linears are stored as FP8 (and routed experts as FP4 or FP8)."""
        return self.quantization_config is not None

    @property
    def serving_rounding(self) -> Literal["release", "none"]:
        """Run-time rounding to talk to it with: a quantized checkpoint was made to run so."""
        return "release" if self.quantized else "none"

    @property
    def mtp_ratio(self) -> int:
        """The compression ratio of the MTP blocks: always 0, sliding window only."""
        return 0

    def layer_ratio(self, layer: int) -> int:
        """The compression ratio of `layer`: 0 sliding window, 4 CSA, 128 HCA; MTP layers follow."""
        return self.compress_ratios[layer]

    def is_hash_layer(self, layer: int) -> bool:
        """Whether `layer` routes by the token id (`tid2eid`) and not by its scores."""
        return layer < self.num_hash_layers

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> V4Config:
        """Reads any dialect of a V4 config.json; raises ConfigError naming the field."""
        refuse_other_models(values)
        return build(cls, _with_nested(read_v4(values)))

    def to_dict(self) -> dict[str, object]:
        """The published Hugging Face dialect; `from_dict` of it gives this configuration again."""
        return published(self, FIXED_V4, "DeepseekV4ForCausalLM")


@dataclass(frozen=True, kw_only=True)
class V3Config:
    """One DeepSeek-V3 or, where the `index_*` fields are given, V3.2 model."""

    vocab_size: Annotated[int, Between(1, 2**24)]
    hidden_size: Count
    intermediate_size: Count
    moe_intermediate_size: Count
    num_hidden_layers: Layers
    num_attention_heads: Count
    q_lora_rank: Count
    kv_lora_rank: Count
    qk_nope_head_dim: Count
    qk_rope_head_dim: Count
    v_head_dim: Count
    first_k_dense_replace: CountOrZero
    n_routed_experts: Count
    num_experts_per_tok: Count
    n_shared_experts: Count = 1
    n_group: Count = 1
    topk_group: Count = 1
    routed_scaling_factor: Annotated[float, Between(1e-6, 1e6)]
    norm_topk_prob: bool = True
    rms_norm_eps: Epsilon = 1e-6
    num_nextn_predict_layers: Annotated[int, Between(0, 16)] = 0
    rope_theta: Theta = 10000.0
    rope_scaling: RopeScaling | None = None
    max_position_embeddings: Annotated[int, Between(1, 2**40)] = 163840
    bos_token_id: CountOrZero = 0
    eos_token_id: CountOrZero = 1
    initializer_range: Annotated[float, Between(0.0, 10.0)] = 0.02
    torch_dtype: Dtype = "bfloat16"
    quantization_config: QuantizationConfig | None = None
    index_n_heads: Count | None = None
    index_head_dim: Count | None = None
    index_topk: Count | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        _check_experts(self)
        require(self.qk_rope_head_dim % 2 == 0, "qk_rope_head_dim", self.qk_rope_head_dim, "even")
        require(
            self.first_k_dense_replace <= self.num_hidden_layers,
            "first_k_dense_replace",
            self.first_k_dense_replace,
            f"at most num_hidden_layers ({self.num_hidden_layers})",
        )
        require(
            self.n_routed_experts % self.n_group == 0,
            "n_routed_experts",
            self.n_routed_experts,
            f"a multiple of n_group ({self.n_group})",
        )
        require(
            self.topk_group <= self.n_group,
            "topk_group",
            self.topk_group,
            f"at most n_group ({self.n_group})",
        )
        reachable = self.n_routed_experts // self.n_group * self.topk_group
        require(
            self.num_experts_per_tok <= reachable,
            "num_experts_per_tok",
            self.num_experts_per_tok,
            f"at most the {reachable} experts of topk_group groups",
        )
        self._check_indexer()

    def _check_indexer(self) -> None:
        given = {self.index_n_heads is None, self.index_head_dim is None, self.index_topk is None}
        require(
            len(given) == 1,
            "index_n_heads, index_head_dim, index_topk",
            (self.index_n_heads, self.index_head_dim, self.index_topk),
            "all three (V3.2) or none (V3)",
        )
        if self.index_head_dim is not None:
            _check_rope_dim(self.qk_rope_head_dim, "index_head_dim", self.index_head_dim)

    @property
    def model_type(self) -> str:
        """`model_type` of config.json."""
        return "deepseek_v3" if self.index_topk is None else "deepseek_v32"

    @property
    def quantized(self) -> bool:
        """Whether linears are stored as FP8."""
        return self.quantization_config is not None

    @property
    def serving_rounding(self) -> Literal["release", "none"]:
        """None: V3 is here to compare V4 with."""
        return "none"

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> V3Config:
        """Reads a V3 or V3.2 config.json; raises ConfigError naming the field."""
        refuse_other_models(values)
        return build(cls, _with_nested(read_v3(values)))

    def to_dict(self) -> dict[str, object]:
        """The published Hugging Face dialect; `from_dict` of it gives this configuration again."""
        architecture = (
            "DeepseekV3ForCausalLM" if self.index_topk is None else "DeepseekV32ForCausalLM"
        )
        return published(self, FIXED_V3, architecture)


ModelConfig = V4Config | V3Config


def _check_rope_dim(rope_dim: int, name: str, dim: int) -> None:
    require(
        rope_dim % 2 == 0 and rope_dim <= dim,
        "qk_rope_head_dim",
        rope_dim,
        f"even, and at most {name} ({dim})",
    )


def _check_experts(config: ModelConfig) -> None:
    require(
        config.num_experts_per_tok <= config.n_routed_experts,
        "num_experts_per_tok",
        config.num_experts_per_tok,
        f"at most n_routed_experts ({config.n_routed_experts})",
    )
    layers = config.num_hidden_layers + config.num_nextn_predict_layers
    require(
        layers * config.n_routed_experts <= MAX_EXPERTS,
        "n_routed_experts",
        config.n_routed_experts,
        f"at most {MAX_EXPERTS:,} experts over all {layers} layers",
    )
    for name in ("bos_token_id", "eos_token_id"):
        token = getattr(config, name)
        require(token < config.vocab_size, name, token, f"below vocab_size ({config.vocab_size})")


def _with_nested(fields: dict[str, Any]) -> dict[str, Any]:
    """`fields` with its nested objects built."""
    nested = {"rope_scaling": RopeScaling, "quantization_config": QuantizationConfig}
    return {
        name: build(nested[name], value, f"{name}.")
        if name in nested and isinstance(value, dict)
        else value
        for name, value in fields.items()
    }


def config_from_dict(values: Mapping[str, object]) -> ModelConfig:
    """The configuration in a parsed config.json, V4 or V3 by its `model_type`."""
    is_v3 = values.get("model_type") in ("deepseek_v3", "deepseek_v32")
    return V3Config.from_dict(values) if is_v3 else V4Config.from_dict(values)


def load_config(path_or_preset: str | Path) -> ModelConfig:
    """The configuration of a preset, of a folder with a config.json, or of a config.json.

    A preset wins over a folder of the same name: write `./nano` for the folder. Raises ConfigError,
    naming the file and the field, when there is none or it is not valid.
    """
    if path_or_preset in PRESETS:
        path = _PRESET_FOLDER / f"{path_or_preset}.json"
    else:
        path = Path(path_or_preset)
        path = path / "config.json" if path.is_dir() else path
    if not path.exists():
        raise ConfigError(
            f"There is no configuration at {path}; give a folder with a config.json, "
            f"a config.json, or a preset: {', '.join(PRESETS)}."
        )
    values = read_json_object(path, _MAX_CONFIG_BYTES, ConfigError)
    try:
        return config_from_dict(values)
    except ConfigError as problem:
        raise ConfigError(f"{path}: {problem}") from None
