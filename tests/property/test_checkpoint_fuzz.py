"""Damaged checkpoints: whatever the bytes, the answer is one sentence or the right model.

A folder with a small model is damaged at random; opening it and reading everything must either
raise a DougongError without a line break or give what the bytes say. No other exception may come.
"""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dougong.checkpoint import open_checkpoint, parameters, write_checkpoint
from dougong.checkpoint.safetensors_file import SafetensorsFile
from dougong.config import V4Config, config_from_dict, load_config
from dougong.errors import CheckpointError, ConfigError, DougongError
from tests.support.safetensors_bytes import file_bytes, read_header

GOLDEN = Path(__file__).parents[1] / "parity" / "golden"

# Any JSON that a header or a config.json could hold, numbers too large for any tensor included.
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**65), 2**65)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(["F32", "BF16", "I8", "F8_E4M3", "I64", "yarn", "fp8", "sliding_attention"]),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
COUNTS = st.integers(-2, 2**41) | st.integers(0, 64)
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "BF16", "I8", "F8_E8M0", "I64", "F64", "nonsense"]),
        "shape": st.lists(COUNTS, max_size=3),
        "data_offsets": st.lists(COUNTS, min_size=1, max_size=3),
    }
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published-format model of a few thousand weights, with its files' sane content."""
    config = V4Config.from_dict(
        load_config(GOLDEN / "sq2_mtp").to_dict()
        | {
            "vocab_size": 8, "hidden_size": 32, "head_dim": 16, "qk_rope_head_dim": 8,
            "q_lora_rank": 8, "o_lora_rank": 4, "index_head_dim": 8, "index_n_heads": 2,
            "moe_intermediate_size": 32, "n_routed_experts": 2, "num_hash_layers": 1,
            "num_hidden_layers": 1, "num_nextn_predict_layers": 0, "compress_ratios": [4],
        }
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("fuzz") / "model"
    generator = np.random.default_rng(0)
    tensors = {
        p.name: np.tile([1, 0], (p.shape[0], 1))
        if p.role == "table"
        else generator.normal(size=p.shape).astype(np.float32)
        for p in parameters(config)
    }
    write_checkpoint(folder, config, tensors.items(), quantize="fp4+fp8")
    return folder


def outcome(folder: Path) -> str | None:
    """Opens and reads everything; the sentence of the refusal, or None if all is well."""
    try:
        checkpoint = open_checkpoint(folder)
        for name in checkpoint.names():
            assert np.isfinite(checkpoint.read(name)).all()
    except DougongError as refusal:
        return one_sentence(refusal)
    return None


def one_sentence(refusal: DougongError) -> str:
    """What it says, which must fit on one line of a terminal or a log."""
    said = str(refusal)
    assert "\n" not in said
    assert len(said) < 2000
    return said


def damaged(model: Path, name: str, content: bytes) -> str | None:
    """The outcome with one file's content replaced; the file is put back afterwards."""
    path = model / name
    sane = path.read_bytes()
    try:
        path.write_bytes(content)
        return outcome(model)
    finally:
        path.write_bytes(sane)


def test_the_model_before_any_damage_is_well(model: Path) -> None:
    assert outcome(model) is None


@given(data=st.data())
def test_flipped_bytes_of_the_header_are_refused_or_harmless(model: Path, data: Any) -> None:
    content = bytearray((model / "model.safetensors").read_bytes())
    header_end = 8 + struct.unpack("<Q", content[:8])[0]
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, header_end - 1))] = data.draw(st.integers(0, 255))
    damaged(model, "model.safetensors", bytes(content))


@given(data=st.data())
def test_a_truncated_or_lengthened_file_is_always_refused(model: Path, data: Any) -> None:
    content = (model / "model.safetensors").read_bytes()
    cut = data.draw(st.integers(0, len(content) - 1))
    assert damaged(model, "model.safetensors", content[:cut]) is not None
    tail = data.draw(st.binary(min_size=1, max_size=16))
    assert damaged(model, "model.safetensors", content + tail) is not None


@given(data=st.data())
def test_a_rewritten_header_entry_is_refused_or_the_same(model: Path, data: Any) -> None:
    header, body = read_header(model / "model.safetensors")
    name = data.draw(st.sampled_from(sorted(header.keys() - {"__metadata__"})))
    value = data.draw(ENTRIES | JSON)
    content = file_bytes({**header, name: value}, body)
    said = damaged(model, "model.safetensors", content)
    assert said is not None or value == header[name]


@given(data=st.data())
def test_renamed_and_swapped_tensors_are_refused_or_fit(model: Path, data: Any) -> None:
    """Two tensors of one shape and dtype may trade places: both are then what they say."""
    header, body = read_header(model / "model.safetensors")
    names = st.sampled_from(sorted(header.keys() - {"__metadata__"}))
    one, other = data.draw(names), data.draw(names)
    swapped = {**header, one: header[other], other: header[one]}
    said = damaged(model, "model.safetensors", file_bytes(swapped, body))
    kind = [(header[n]["dtype"], header[n]["shape"]) for n in (one, other)]
    assert (said is None) or kind[0] != kind[1]
    renamed = {k if k != one else f"{k}x": v for k, v in header.items()}
    assert damaged(model, "model.safetensors", file_bytes(renamed, body)) is not None


@given(header=st.dictionaries(st.text(max_size=6), ENTRIES | JSON, max_size=4) | JSON)
def test_any_json_as_a_header_raises_nothing_else(
    header: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    path.write_bytes(file_bytes(json.dumps(header).encode("utf-8", "surrogatepass"), bytes(64)))
    try:
        SafetensorsFile(path)
    except CheckpointError as refusal:
        one_sentence(refusal)


@given(changes=st.dictionaries(st.sampled_from([
    *V4Config.__dataclass_fields__, "model_type", "layer_types", "rope_parameters", "dtype",
    "partial_rotary_factor", "mlp_layer_types", "hidden_act", "dim", "unheard_of",
]), JSON | COUNTS, min_size=1, max_size=3))  # fmt: skip
@settings(max_examples=300)
def test_any_json_in_config_json_is_refused_or_valid(changes: dict[str, Any]) -> None:
    values = load_config(GOLDEN / "sq2_mtp").to_dict() | changes
    try:
        config = config_from_dict(values)
    except ConfigError as refusal:
        one_sentence(refusal)
        return
    assert config_from_dict(json.loads(json.dumps(config.to_dict()))) == config


@given(changes=st.dictionaries(st.sampled_from(["metadata", "weight_map"]), JSON, min_size=1))
def test_any_json_as_an_index_is_refused(model: Path, changes: dict[str, Any]) -> None:
    weights, index = model / "model.safetensors", model / "model.safetensors.index.json"
    weights.rename(model / "a.safetensors")
    try:
        index.write_text(json.dumps({"weight_map": {}} | changes))
        assert outcome(model) is not None
    finally:
        index.unlink()
        (model / "a.safetensors").rename(weights)
