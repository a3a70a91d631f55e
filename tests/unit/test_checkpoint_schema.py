"""The schema adds up to the published checkpoints: tensors, bytes, dtypes, parameters."""

import math
from collections import Counter
from dataclasses import replace

import pytest

from dougong.checkpoint import parameters, schema
from dougong.config import ModelConfig, load_config
from dougong.errors import ConfigError

# architecture.md 6.1: what the published index files say.
PUBLISHED_TOTALS = {"v4-flash": (69187, 159609485896), "v4-pro": (145116, 864704792696)}
# architecture.md 6.3: with MTP blocks, and the MTP block alone.
PARAMETERS = {
    "v4-flash": (290_942_289_362, 6_610_048_891),
    "v4-pro": (1_598_837_347_742, 25_840_145_979),
}


def count(config: ModelConfig, prefix: str = "") -> int:
    return sum(p.count for p in parameters(config) if p.name.startswith(prefix))


@pytest.mark.parametrize("name", PUBLISHED_TOTALS)
def test_tensors_and_bytes_are_those_of_the_published_index(name: str) -> None:
    tensors = schema(load_config(name))
    assert (len(tensors), sum(spec.nbytes for spec in tensors)) == PUBLISHED_TOTALS[name]
    assert len({spec.name for spec in tensors}) == len(tensors)


def test_dtypes_of_flash_are_those_of_the_release() -> None:
    """architecture.md 5.1."""
    dtypes = Counter(spec.dtype for spec in schema(load_config("v4-flash")))
    assert dtypes == {
        "BF16": 433, "F32": 417, "F8_E4M3": 375, "F8_E8M0": 34167, "I8": 33792, "I64": 3
    }  # fmt: skip


def test_mtp_tensors_are_as_many_as_published() -> None:
    for name, published in (("v4-flash", 1575), ("v4-pro", 2343)):
        tensors = schema(load_config(name))
        assert sum(spec.name.startswith("mtp.0.") for spec in tensors) == published


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_as_many_as_published(name: str) -> None:
    total, mtp = PARAMETERS[name]
    config = load_config(name)
    assert count(config) == total
    assert count(config, "mtp.") == mtp


def test_parts_of_a_flash_layer_have_the_published_sizes() -> None:
    """architecture.md 6.3: layer 0 is sliding, 2 is CSA, 3 is HCA."""
    flash = load_config("v4-flash")
    assert count(flash, "layers.2.attn.compressor.") == 8_393_216
    assert count(flash, "layers.2.attn.indexer.") == 10_749_056
    assert count(flash, "layers.3.attn.compressor.") == 4_260_352
    assert count(flash, "layers.0.attn.") == 106_956_352
    assert count(flash, "layers.0.hc_") == 786_486
    assert count(flash, "layers.0.ffn.experts.") == 6_442_450_944


def test_v3_is_the_published_v3_by_dtype() -> None:
    """Values by dtype as Hugging Face lists them for deepseek-ai/DeepSeek-V3 (685B in all)."""
    values: Counter[str] = Counter()
    for spec in schema(load_config("v3")):
        values[spec.dtype] += math.prod(spec.shape)
    assert values == {"BF16": 3_918_786_560, "F8_E4M3": 680_571_043_840, "F32": 41_555_600}


def test_v32_is_the_published_v32_exp() -> None:
    """The total Hugging Face lists for deepseek-ai/DeepSeek-V3.2-Exp, scales included."""
    assert sum(math.prod(spec.shape) for spec in schema(load_config("v3.2"))) == 685_396_921_376


def test_base_models_differ_from_instruct_models_in_their_experts_only() -> None:
    """architecture.md 5.1: Flash-Base has FP8 experts, 292.5 GB."""
    flash = load_config("v4-flash")
    base = replace(flash, expert_dtype="fp8")
    changed = set(schema(base)) ^ set(schema(flash))
    assert all(".ffn.experts." in spec.name for spec in changed)
    assert round(sum(spec.nbytes for spec in schema(base)) / 1e8) == 2925


def test_unquantized_models_keep_routing_and_mhc_in_float32() -> None:
    flash = load_config("v4-flash")
    unquantized = replace(flash, quantization_config=None, expert_dtype=None)
    plain = {spec.name: spec.dtype for spec in schema(unquantized)}
    assert plain["layers.0.attn.wq_a.weight"] == "BF16"
    assert plain["layers.0.ffn.experts.0.w1.weight"] == "BF16"
    assert plain["layers.5.ffn.gate.bias"] == plain["layers.0.hc_attn_fn"] == "F32"
    assert plain["layers.0.ffn.gate.tid2eid"] == "I64"


def test_fp4_experts_need_whole_blocks() -> None:
    odd = replace(load_config("v4-flash"), moe_intermediate_size=2000)
    with pytest.raises(ConfigError, match=r"w2.weight has 2000 columns.*multiples of 32"):
        schema(odd)
