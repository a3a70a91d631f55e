"""A folder is checked whole before it is read, and then read exactly."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dougong.checkpoint import open_checkpoint
from dougong.errors import CheckpointError, ConfigError
from tests.support.safetensors_bytes import entry, file_bytes, read_header

GOLDEN = Path(__file__).parents[1] / "parity" / "golden"
GOLDENS = sorted(path.name for path in GOLDEN.iterdir() if path.is_dir())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A writable copy of a published-format checkpoint with an MTP block and a hash layer's kin."""
    return copy_of("sq1_csa_hash", tmp_path)


def copy_of(name: str, tmp_path: Path) -> Path:
    target = tmp_path / name
    target.mkdir()
    for file in ("config.json", "model.safetensors"):
        shutil.copy(GOLDEN / name / file, target / file)
    return target


def edit_config(folder: Path, **changes: Any) -> None:
    values = json.loads((folder / "config.json").read_text()) | changes
    values = {key: value for key, value in values.items() if value is not ...}
    (folder / "config.json").write_text(json.dumps(values))


def edit_tensors(folder: Path, edit: Callable[[dict[str, torch.Tensor]], None]) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path)


def widened(name: str) -> dict[str, np.ndarray]:
    """Every parameter as torch widens it, FP4 by the table of golden/README.md."""
    table = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6] + [-v for v in [0, 0.5, 1, 1.5, 2, 3, 4, 6]])
    tensors = load_file(GOLDEN / name / "model.safetensors")
    result = {}
    for key, tensor in tensors.items():
        if key.endswith(".scale"):
            continue
        scale = tensors.get(key.removesuffix("weight") + "scale")
        if tensor.dtype == torch.int8:
            bits = tensor.view(torch.uint8).long()
            values = table[torch.stack([bits & 15, bits >> 4], -1).flatten(1)]
            tensor = values * scale.float().repeat_interleave(32, 1)
        elif scale is not None:
            spread = scale.float().repeat_interleave(128, 0).repeat_interleave(128, 1)
            tensor = tensor.float() * spread[: tensor.shape[0], : tensor.shape[1]]
        result[key] = tensor.long() if "tid2eid" in key else tensor.float()
    return {key: tensor.numpy() for key, tensor in result.items()}


@pytest.mark.parametrize("name", GOLDENS)
def test_every_tensor_is_read_exactly(name: str) -> None:
    checkpoint = open_checkpoint(GOLDEN / name)
    expected = widened(name)
    assert set(checkpoint.names()) == set(expected)
    for key, want in expected.items():
        got = checkpoint.read(key)
        assert got.dtype == want.dtype
        assert got.shape == checkpoint.parameter(key).shape
        assert np.array_equal(got, want), key
        assert got.flags.writeable


def test_info_says_how_a_tensor_is_stored() -> None:
    checkpoint = open_checkpoint(GOLDEN / "sq1_csa_hash")
    stored = {
        key: (checkpoint.info(key).dtype, checkpoint.info(key).nbytes)
        for key in ("embed.weight", "layers.0.attn.wkv.weight", "layers.1.ffn.experts.3.w2.weight")
    }
    assert stored == {
        "embed.weight": ("BF16", 160 * 128 * 2),
        "layers.0.attn.wkv.weight": ("F8_E4M3", 128 * 128 + 1),
        "layers.1.ffn.experts.3.w2.weight": ("I8", 128 * 64 + 128 * 4),
    }


def test_all_infos_add_up_to_the_data_of_the_file() -> None:
    for name in GOLDENS:
        checkpoint = open_checkpoint(GOLDEN / name)
        _, data = read_header(GOLDEN / name / "model.safetensors")
        assert sum(checkpoint.info(key).nbytes for key in checkpoint.names()) == len(data)


def test_stored_bits_are_mapped_and_cannot_be_written() -> None:
    stored = open_checkpoint(GOLDEN / "sq1_csa_hash").stored("layers.0.attn.wkv.weight")
    with safe_open(GOLDEN / "sq1_csa_hash" / "model.safetensors", "pt") as file:
        theirs = file.get_tensor("layers.0.attn.wkv.weight").view(torch.uint8).numpy()
    assert np.array_equal(stored.data, theirs)
    assert (stored.dtype, stored.scale_dtype) == ("F8_E4M3", "F8_E8M0")
    assert not stored.data.flags.writeable


def test_float_tensors_may_be_f32_bf16_or_f16(tmp_path: Path) -> None:
    for dtype in (torch.bfloat16, torch.float16):
        folder = tmp_path / str(dtype)
        folder.mkdir()
        folder = copy_of("s2_csa", folder)

        def narrow(tensors: dict[str, torch.Tensor], dtype: torch.dtype = dtype) -> None:
            for key, tensor in tensors.items():
                tensors[key] = tensor.to(dtype) if tensor.is_floating_point() else tensor

        edit_tensors(folder, narrow)
        got = open_checkpoint(folder).read("layers.1.attn.indexer.wq_b.weight")
        exact = widened("s2_csa")["layers.1.attn.indexer.wq_b.weight"]
        numpy_dtype = ml_dtypes.bfloat16 if dtype == torch.bfloat16 else np.float16
        assert np.array_equal(got, exact.astype(numpy_dtype).astype(np.float32))


def test_tables_may_be_i32_or_i64() -> None:
    dtypes = {
        name: open_checkpoint(GOLDEN / name).info("layers.0.ffn.gate.tid2eid").dtype
        for name in ("s1_sliding", "sq1_csa_hash")
    }
    assert dtypes == {"s1_sliding": "I32", "sq1_csa_hash": "I64"}


def test_expert_dtype_left_out_is_found_in_the_file(folder: Path) -> None:
    """Trap 11: the day-0 config.json had none."""
    edit_config(folder, expert_dtype=...)
    assert open_checkpoint(folder).config.expert_dtype == "fp4"


def test_an_unknown_name_is_refused(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="has no tensor 'layers.9.x'"):
        open_checkpoint(folder).read("layers.9.x")


WKV = "layers.0.attn.wkv.weight"


def delete(*names: str) -> Callable[[dict[str, torch.Tensor]], None]:
    return lambda tensors: [tensors.pop(name) for name in names] and None


def put(name: str, tensor: torch.Tensor) -> Callable[[dict[str, torch.Tensor]], None]:
    return lambda tensors: tensors.update({name: tensor})


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (
            delete("norm.weight"),
            r"tensor 'norm.weight' is missing; config.json asks for BF16 \[128",
        ),
        (delete("layers.0.attn.wkv.scale"), r"wkv.scale' is missing; .* F8_E8M0 \[1, 1\]"),
        (delete("norm.weight", "head.weight"), r"is missing \(and 1 more tensors\)"),
        (put("layers.7.x", torch.ones(2)), "'layers.7.x' is not part of the model"),
        (put("norm.weight", torch.ones(64)), r"'norm.weight' has shape \[64\]; expected \[128\]"),
        (put(WKV, torch.ones(128, 128)), "wkv.weight' is stored as F32; expected F8_E4M3"),
        (
            put("layers.0.attn.wkv.scale", torch.ones(1, 1)),
            "wkv.scale' is stored as F32; expected F8_E8M0",
        ),
        (
            put("layers.0.ffn.experts.0.w1.weight", torch.zeros(128, 128, dtype=torch.int8)),
            r"w1.weight' has shape \[128, 128\]; expected \[128, 64\]",
        ),
        (put("norm.weight", torch.ones(128).long()), "stored as I64; expected BF16 or F32 or F16"),
    ],
)
def test_what_config_json_does_not_describe_is_refused(
    folder: Path, edit: Callable[[dict[str, torch.Tensor]], None], said: str
) -> None:
    edit_tensors(folder, edit)
    with pytest.raises(CheckpointError, match=said) as refusal:
        open_checkpoint(folder)
    assert str(folder) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_config_of_another_size_is_refused(folder: Path) -> None:
    edit_config(folder, vocab_size=161)
    with pytest.raises(CheckpointError, match=r"has shape \[160, .*\]; expected \[161, "):
        open_checkpoint(folder)


def test_mtp_announced_but_missing_is_refused(folder: Path) -> None:
    edit_config(folder, num_nextn_predict_layers=1, compress_ratios=[0, 4, 128, 0])
    with pytest.raises(CheckpointError, match="'mtp.0.e_proj.weight' is missing"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    ("row", "said"),
    [([0, 4], r"token 7 is routed to experts \[0, 4\]; expected different ones from 0 to 3"),
     ([-1, 2], r"token 7 is routed to experts \[-1, 2\]"),
     ([3, 3], r"token 7 is routed to experts \[3, 3\]")],
)  # fmt: skip
def test_a_table_with_impossible_experts_is_refused(
    folder: Path, row: list[int], said: str
) -> None:
    name = "layers.0.ffn.gate.tid2eid"
    edit_tensors(folder, lambda tensors: tensors[name][7].copy_(torch.tensor(row)))
    with pytest.raises(CheckpointError, match=said):
        open_checkpoint(folder).read(name)


@pytest.mark.parametrize(
    ("name", "byte"), [(WKV, 0x7F), ("layers.0.attn.wkv.scale", 0xFF), ("norm.weight", 0xFF)]
)
def test_nan_is_refused_when_read(folder: Path, name: str, byte: int) -> None:
    edit_tensors(folder, lambda tensors: tensors[name].view(torch.uint8).fill_(byte))
    weight = name.replace("scale", "weight")
    with pytest.raises(CheckpointError, match=f"{weight}' holds NaN or infinity"):
        open_checkpoint(folder).read(weight)


def shard(folder: Path) -> dict[str, str]:
    """Splits the model in two shards with an index; returns the index's weight_map."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    halves = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, half in halves.items():
        save_file({name: tensors[name] for name in half}, folder / file)
    weight_map = {name: file for file, half in halves.items() for name in half}
    write_index(folder, weight_map)
    return weight_map


def write_index(folder: Path, weight_map: Any) -> None:
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_shards_are_read_as_one_model(folder: Path) -> None:
    shard(folder)
    checkpoint, expected = open_checkpoint(folder), widened("sq1_csa_hash")
    assert all(np.array_equal(checkpoint.read(name), expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("name", "file", "said"),
    [
        ("norm.weight", "c.safetensors", "c.safetensors is missing"),
        ("norm.weight", "../a.safetensors", "said to be in '../a.safetensors'; expected the plain"),
        ("norm.weight", "/etc/a.safetensors", "expected the plain name"),
        ("norm.weight", ".a.safetensors", "expected the plain name"),
        ("norm.weight", "a.bin", "expected the plain name"),
        ("norm.weight", "a\u0000.safetensors", "expected the plain name"),
        ("norm.weight", 5, "expected the plain name"),
        ("other", "a.safetensors", "'other' should be in a.safetensors, but no shard has it"),
        ("embed.weight", "b.safetensors", "should be in b.safetensors, but it is in a.safetensors"),
        ("norm.weight", None, "'norm.weight' is not in the index"),
    ],
)
def test_an_index_that_disagrees_with_its_shards_is_refused(
    folder: Path, name: str, file: Any, said: str
) -> None:
    weight_map: dict[str, Any] = {**shard(folder), name: file}
    if file is None:
        del weight_map[name]
    write_index(folder, weight_map)
    with pytest.raises(CheckpointError, match=said):
        open_checkpoint(folder)


def test_a_tensor_in_two_shards_is_refused(folder: Path) -> None:
    shard(folder)
    tensors = load_file(folder / "a.safetensors") | {"norm.weight": torch.ones(128)}
    save_file(tensors, folder / "a.safetensors")
    tensors = load_file(folder / "b.safetensors") | {"norm.weight": torch.ones(128)}
    save_file(tensors, folder / "b.safetensors")
    with pytest.raises(CheckpointError, match="'norm.weight' is both in a.safetensors and in b"):
        open_checkpoint(folder)


@pytest.mark.parametrize("weight_map", [None, {}, [1]])
def test_an_index_without_a_weight_map_is_refused(folder: Path, weight_map: Any) -> None:
    shard(folder)
    write_index(folder, weight_map)
    with pytest.raises(CheckpointError, match="weight_map is missing or empty"):
        open_checkpoint(folder)


def test_which_weights_are_meant_must_be_clear(folder: Path) -> None:
    """One file or an index: other names are never picked up, and never both."""
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    with pytest.raises(CheckpointError, match="holds neither model.safetensors nor"):
        open_checkpoint(folder)
    (folder / "weights.safetensors").rename(folder / "model.safetensors")
    write_index(folder, {})
    with pytest.raises(CheckpointError, match="holds both model.safetensors and"):
        open_checkpoint(folder)


def test_other_files_of_the_folder_are_not_opened(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n.")
    (folder / "modeling_deepseek.py").write_text("raise SystemExit('executed')")
    (folder / "extra.safetensors").write_bytes(b"broken")
    assert open_checkpoint(folder).names()


def test_no_folder_and_no_config_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a folder"):
        open_checkpoint(tmp_path / "nothing")
    with pytest.raises(ConfigError, match="no configuration at .*config.json"):
        open_checkpoint(tmp_path)


def test_an_absurd_tensor_is_refused_by_its_header_alone(folder: Path) -> None:
    """A sparse file of a terabyte: nothing of that size is read or allocated."""
    path = folder / "model.safetensors"
    header, data = read_header(path)
    header["norm.scale"] = entry("I8", [2**40], len(data), len(data) + 2**40)
    path.write_bytes(file_bytes(header, data))
    os.truncate(path, path.stat().st_size + 2**40)
    with pytest.raises(CheckpointError, match="'norm.scale' is not part of the model"):
        open_checkpoint(folder)


def test_an_absurd_config_is_refused_before_anything_is_read(folder: Path) -> None:
    edit_config(folder, hidden_size=2**20, moe_intermediate_size=2**20, vocab_size=2**24)
    with pytest.raises(CheckpointError, match=r"expected \[(16777216|1048576), "):
        open_checkpoint(folder)
