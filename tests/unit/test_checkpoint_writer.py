"""Written checkpoints hold the same values, in the form asked for, or do not appear at all."""

import errno
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dougong.checkpoint import (
    Checkpoint,
    convert,
    open_checkpoint,
    parameters,
    schema,
    write_checkpoint,
)
from dougong.checkpoint import writer as writer_module
from dougong.config import V3Config
from dougong.errors import CheckpointError, InputError
from dougong.formats import bf16, fp4_block, fp8_block
from tests.support.safetensors_bytes import read_header

GOLDEN = Path(__file__).parents[1] / "parity" / "golden"


def golden(name: str = "s4_mixed_mtp") -> Checkpoint:
    return open_checkpoint(GOLDEN / name)


def tensors_of(checkpoint: Checkpoint) -> Iterator[tuple[str, np.ndarray]]:
    return ((name, checkpoint.read(name)) for name in checkpoint.names())


def assert_same_values(one: Checkpoint, other: Checkpoint) -> None:
    for name in other.names():
        assert np.array_equal(one.read(name), other.read(name)), name


@pytest.mark.parametrize("name", ["s4_mixed_mtp", "sq1_csa_hash", "sq2_mtp"])
def test_converting_without_options_keeps_format_and_bits(name: str, tmp_path: Path) -> None:
    convert(GOLDEN / name, tmp_path / "out")
    source, copy = golden(name), open_checkpoint(tmp_path / "out")
    assert copy.config == source.config
    assert_same_values(source, copy)
    for key in source.names():
        one, other = source.stored(key), copy.stored(key)
        assert np.array_equal(one.data, other.data)
        assert (one.scale is None) or np.array_equal(one.scale, other.scale)


@pytest.mark.parametrize("name", ["sq1_csa_hash", "sq2_mtp"])
def test_published_values_survive_being_quantized_again(name: str, tmp_path: Path) -> None:
    """Values, and the dtypes of the schema; a scale may be smaller where codes allow it."""
    source = golden(name)
    write_checkpoint(tmp_path / "out", source.config, tensors_of(source), quantize="fp4+fp8")
    again = open_checkpoint(tmp_path / "out")
    assert again.config == source.config
    assert_same_values(source, again)
    written, _ = read_header(tmp_path / "out" / "model.safetensors")
    assert written.pop("__metadata__") == {"format": "pt"}
    assert {key: (value["dtype"], tuple(value["shape"])) for key, value in written.items()} == {
        spec.name: (spec.dtype, spec.shape) for spec in schema(source.config)
    }


def test_a_second_rewrite_changes_no_byte(tmp_path: Path) -> None:
    source = golden("sq2_mtp")
    write_checkpoint(tmp_path / "a", source.config, tensors_of(source), quantize="fp4+fp8")
    once = open_checkpoint(tmp_path / "a")
    write_checkpoint(tmp_path / "b", once.config, tensors_of(once), quantize="fp4+fp8")
    for file in ("model.safetensors", "config.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_quantizing_rounds_each_role_as_its_format_does(tmp_path: Path) -> None:
    """FP8 linears, FP4 experts, BF16 rest; what routes and mixes stays float32."""
    source = quantizable()
    write_checkpoint(tmp_path / "out", source.config, tensors_of(source), quantize="fp4+fp8")
    result = open_checkpoint(tmp_path / "out")
    assert result.config.torch_dtype == "bfloat16"
    for parameter in parameters(source.config):
        exact, got = source.read(parameter.name), result.read(parameter.name)
        want = {
            "linear": lambda x: fp8_block.dequantize(*fp8_block.quantize(x)),
            "expert": lambda x: fp4_block.dequantize(*fp4_block.quantize(x)),
            "half": lambda x: bf16.decode(bf16.encode(x)),
            "single": lambda x: x,
            "table": lambda x: x,
        }[parameter.role](exact)
        assert np.array_equal(got, want), parameter.name


def quantizable() -> Checkpoint:
    """A float32 model whose experts have whole blocks of 32."""
    checkpoint = golden("s4_mixed_mtp")
    assert checkpoint.config.moe_intermediate_size % 32 == 0
    return checkpoint


def test_base_format_has_fp8_experts(tmp_path: Path) -> None:
    source = quantizable()
    convert(source.folder, tmp_path / "out", quantize="fp8")
    result = open_checkpoint(tmp_path / "out")
    assert result.config.expert_dtype == "fp8"
    assert result.info("layers.0.ffn.experts.0.w1.weight").dtype == "F8_E4M3"
    name = "layers.0.ffn.experts.0.w1.weight"
    assert np.array_equal(
        result.read(name), fp8_block.dequantize(*fp8_block.quantize(source.read(name)))
    )


def test_base_format_without_expert_dtype_is_recognized(tmp_path: Path) -> None:
    convert(quantizable().folder, tmp_path / "out", quantize="fp8")
    path = tmp_path / "out" / "config.json"
    values = json.loads(path.read_text())
    del values["expert_dtype"]
    path.write_text(json.dumps(values))
    assert open_checkpoint(tmp_path / "out").config.expert_dtype == "fp8"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_dequantizing_to_a_dtype(dtype: str, tmp_path: Path) -> None:
    convert(GOLDEN / "sq1_csa_hash", tmp_path / "out", dtype=dtype)
    source, result = golden("sq1_csa_hash"), open_checkpoint(tmp_path / "out")
    assert not result.config.quantized
    assert result.config.torch_dtype == dtype
    if dtype == "float32":
        assert_same_values(source, result)
    single = "layers.1.attn.attn_sink"
    assert np.array_equal(source.read(single), result.read(single))


def test_transformers_layout_leaves_mtp_out_and_says_so(tmp_path: Path) -> None:
    written = convert(GOLDEN / "s4_mixed_mtp", tmp_path / "out", layout="transformers")
    assert written.left_out
    assert all(name.startswith("mtp.0.") for name in written.left_out)
    assert set(written.left_out) == {n for n in golden().names() if n.startswith("mtp.")}
    result = open_checkpoint(tmp_path / "out")
    assert result.layout == "transformers"
    assert result.config.num_nextn_predict_layers == 0
    assert result.config == replace(
        golden().config, num_nextn_predict_layers=0, compress_ratios=(0, 0, 4, 128, 4)
    )
    assert_same_values(golden(), result)


def test_back_from_transformers_to_official(tmp_path: Path) -> None:
    convert(GOLDEN / "sq1_csa_hash", tmp_path / "a", layout="transformers", dtype="float32")
    convert(tmp_path / "a", tmp_path / "b", quantize="fp4+fp8")
    result = open_checkpoint(tmp_path / "b")
    assert result.config == golden("sq1_csa_hash").config
    assert_same_values(golden("sq1_csa_hash"), result)


def test_shards_are_cut_by_size_and_indexed(tmp_path: Path) -> None:
    limit = 300_000
    write_checkpoint(tmp_path / "out", golden().config, tensors_of(golden()), shard_bytes=limit)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    shards = sorted((tmp_path / "out").glob("*.safetensors"))
    assert [path.name for path in shards] == sorted(set(index["weight_map"].values()))
    assert shards[0].name == f"model-00001-of-{len(shards):05d}.safetensors"
    assert len(shards) > 5
    sizes = [len(read_header(path)[1]) for path in shards]
    assert sum(sizes) == index["metadata"]["total_size"]
    assert max(sizes) <= limit
    assert_same_values(golden(), open_checkpoint(tmp_path / "out"))


def test_a_tensor_larger_than_a_shard_gets_its_own(tmp_path: Path) -> None:
    convert(GOLDEN / "s4_mixed_mtp", tmp_path / "out", shard_bytes=1)
    assert len(list((tmp_path / "out").glob("*.safetensors"))) == len(golden().names())
    assert_same_values(golden(), open_checkpoint(tmp_path / "out"))


def test_tensors_come_in_any_order(tmp_path: Path) -> None:
    tensors = list(tensors_of(golden()))
    for layout in ("official", "transformers"):
        out = tmp_path / layout
        write_checkpoint(out, golden().config, reversed(tensors), layout=layout)
        assert_same_values(golden(), open_checkpoint(out))


def test_progress_counts_the_source_bytes_up_to_all(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    convert(
        GOLDEN / "sq2_mtp",
        tmp_path / "out",
        progress=lambda done, total: seen.append((done, total)),
    )
    checkpoint = golden("sq2_mtp")
    total = sum(checkpoint.info(name).nbytes for name in checkpoint.names())
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (total, total)


def test_a_tokenizer_goes_along_and_nothing_else(tmp_path: Path) -> None:
    source = tmp_path / "source"
    convert(GOLDEN / "s2_csa", source)
    (source / "tokenizer.json").write_text("{}")
    (source / "modeling.py").write_text("")
    convert(source, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    }


def swapped(name: str, values: Any) -> Iterator[tuple[str, Any]]:
    """The golden's tensors with one replaced, or left out for None."""
    for key, exact in tensors_of(golden()):
        if key != name:
            yield key, exact
        elif values is not None:
            yield key, values


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("norm.weight", None, "'norm.weight' was not given, nor were 0 others"),
        ("norm.weight", np.ones(63, np.float32), r"has shape \[63\]; expected \[64\]"),
        ("norm.weight", np.full(64, np.nan), "holds NaN or infinity"),
        ("layers.0.ffn.gate.tid2eid", np.zeros((160, 2), np.int64), r"routed to experts \[0, 0\]"),
    ],
)
def test_what_cannot_be_written_leaves_nothing_behind(
    name: str, values: Any, said: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=said):
        write_checkpoint(tmp_path / "out", golden().config, swapped(name, values))
    assert list(tmp_path.iterdir()) == []


def test_unknown_and_repeated_tensors_are_refused(tmp_path: Path) -> None:
    extra = [("layers.9.x", np.ones(2, np.float32))]
    with pytest.raises(CheckpointError, match=r"'layers.9.x' is not part of the model"):
        write_checkpoint(tmp_path / "out", golden().config, extra)
    norm = ("norm.weight", np.ones(64, np.float32))
    with pytest.raises(CheckpointError, match=r"'norm.weight' was given twice"):
        write_checkpoint(tmp_path / "out", golden().config, [norm, norm])


def test_a_value_beyond_float16_is_refused_and_bfloat16_takes_it(tmp_path: Path) -> None:
    large = np.full(64, 1e5, np.float32)
    with pytest.raises(CheckpointError, match="'norm.weight' has values beyond the range of F16"):
        write_checkpoint(
            tmp_path / "out", golden().config, swapped("norm.weight", large), dtype="float16"
        )
    write_checkpoint(
        tmp_path / "out", golden().config, swapped("norm.weight", large), dtype="bfloat16"
    )
    assert open_checkpoint(tmp_path / "out").read("norm.weight")[0] == 99840  # nearest BF16


def test_a_folder_with_something_in_it_is_never_written_to(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    convert(GOLDEN / "s2_csa", tmp_path / "out")  # empty: fine
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(CheckpointError, match="exists and is not empty"):
        convert(GOLDEN / "s2_csa", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_full_disk_is_told_before_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(writer_module.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(CheckpointError, match="has 1,000 bytes free; the checkpoint needs"):
        convert(GOLDEN / "s2_csa", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fails_halfway_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(writer_module.os, "fsync", fail)
    with pytest.raises(CheckpointError, match="cannot be written: Input/output error"):
        convert(GOLDEN / "s2_csa", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"layout": "gguf"}, "layout 'gguf' is not written"),
        ({"layout": "transformers_reverted"}, "is not written"),
        ({"dtype": "float8"}, "dtype 'float8' is not known"),
        ({"quantize": "int4"}, "quantize 'int4' is not known"),
        ({"layout": "transformers", "quantize": "fp8"}, "never quantized"),
    ],
)
def test_options_that_do_not_exist_are_refused(
    options: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=said):
        convert(GOLDEN / "s2_csa", tmp_path / "out", **options)


def tiny_v3() -> tuple[V3Config, dict[str, np.ndarray]]:
    config = V3Config(
        vocab_size=96, hidden_size=32, intermediate_size=48, moe_intermediate_size=16,
        num_hidden_layers=2, num_attention_heads=2, q_lora_rank=16, kv_lora_rank=24,
        qk_nope_head_dim=8, qk_rope_head_dim=8, v_head_dim=12, n_routed_experts=4, n_group=2,
        topk_group=1, num_experts_per_tok=2, first_k_dense_replace=1, num_nextn_predict_layers=1,
        routed_scaling_factor=2.5, torch_dtype="float32", index_n_heads=2, index_head_dim=16,
        index_topk=8,
    )  # fmt: skip
    generator = np.random.default_rng(0)
    return config, {
        p.name: generator.normal(size=p.shape).astype(np.float32) for p in parameters(config)
    }


def test_v3_in_its_published_names_as_floats_and_as_fp8(tmp_path: Path) -> None:
    config, tensors = tiny_v3()
    write_checkpoint(tmp_path / "f32", config, tensors.items())
    plain = open_checkpoint(tmp_path / "f32")
    assert plain.config == config
    assert all(np.array_equal(plain.read(name), tensors[name]) for name in tensors)
    convert(tmp_path / "f32", tmp_path / "fp8", quantize="fp8")
    quantized = open_checkpoint(tmp_path / "fp8")
    name = "model.layers.1.mlp.experts.2.up_proj.weight"
    stored = quantized.stored(name)
    assert (stored.dtype, stored.scale_dtype) == ("F8_E4M3", "F32")
    want = fp8_block.dequantize(*fp8_block.quantize(tensors[name]))
    assert np.array_equal(quantized.read(name), want)
    with pytest.raises(InputError, match="V3 model has the official layout only"):
        convert(tmp_path / "f32", tmp_path / "out", layout="transformers")


def test_v3_without_its_mtp_layer_is_opened_without_it(tmp_path: Path) -> None:
    """As transformers writes it."""
    config, tensors = tiny_v3()
    main = {n: t for n, t in tensors.items() if not n.startswith("model.layers.2.")}
    write_checkpoint(tmp_path / "out", replace(config, num_nextn_predict_layers=0), main.items())
    values = json.loads((tmp_path / "out" / "config.json").read_text())
    (tmp_path / "out" / "config.json").write_text(
        json.dumps(values | {"num_nextn_predict_layers": 1})
    )
    checkpoint = open_checkpoint(tmp_path / "out")
    assert checkpoint.mtp_left_out
    assert checkpoint.config.num_nextn_predict_layers == 0


def test_only_one_tensor_at_a_time_is_asked_for(tmp_path: Path) -> None:
    """Streaming: when a tensor is asked for, the one before it is already in its file."""
    plain = golden()
    asked: list[str] = []

    def watch() -> Iterator[tuple[str, np.ndarray]]:
        for name, values in tensors_of(plain):
            if asked:
                (partial,) = tmp_path.glob(".out.partial-*")
                content = (partial / "model.safetensors").read_bytes()
                assert plain.read(asked[-1]).tobytes() in content
            asked.append(name)
            yield name, values

    write_checkpoint(tmp_path / "out", plain.config, watch())
    assert asked == plain.names()
