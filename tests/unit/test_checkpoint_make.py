"""Random checkpoints: a release's tensors, files and bytes; sane values; the same after a kill."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.tiny import tiny_config

from dougong.checkpoint import open_checkpoint, schema
from dougong.checkpoint.make import cut_config, made_bytes, make_checkpoint
from dougong.checkpoint.writer import _shards
from dougong.config import V4Config, load_config
from dougong.errors import CheckpointError, InputError
from dougong.model.loading import load_model


def released(name: str) -> V4Config:
    config = load_config(name)
    assert isinstance(config, V4Config)
    return config


# total_size and the number of files in the releases' model.safetensors.index.json.
@pytest.mark.parametrize(
    ("name", "total_size", "files"),
    [("v4-flash", 159_609_485_896, 46), ("v4-pro", 864_704_792_696, 64)],
)
def test_a_whole_model_has_the_bytes_and_files_of_the_release(
    name: str, total_size: int, files: int
) -> None:
    config = released(name)
    assert made_bytes(config) == total_size
    assert len(_shards(schema(config), None)) == files


def test_the_first_layers_have_the_releases_names_shapes_and_dtypes() -> None:
    whole = {spec.name: spec for spec in schema(released("v4-flash"))}
    cut = {spec.name: spec for spec in schema(cut_config(released("v4-flash"), layers=4))}
    dropped = {name for name in whole if name.startswith("mtp.") or _layer(name) >= 4}
    assert set(cut) == set(whole) - dropped
    assert all(whole[name] == spec for name, spec in cut.items())


def _layer(name: str) -> int:
    return int(name.split(".")[1]) if name.startswith("layers.") else -1


def test_fewer_layers_and_experts_are_said_in_the_configuration() -> None:
    config = cut_config(released("v4-flash"), layers=2, experts=8)
    assert config.num_hidden_layers == config.num_hash_layers == len(config.compress_ratios) == 2
    assert config.n_routed_experts == 8
    assert config.num_nextn_predict_layers == 0
    whole = cut_config(released("v4-flash"), layers=43)
    assert whole.num_nextn_predict_layers == 1
    with pytest.raises(InputError, match="this model has 43"):
        cut_config(released("v4-flash"), layers=44)
    with pytest.raises(InputError, match="a token uses 6"):
        cut_config(released("v4-flash"), experts=5)


def config() -> V4Config:
    return replace(tiny_config(), hidden_size=128, moe_intermediate_size=64, q_lora_rank=64)


def test_values_are_finite_of_unit_products_and_all_codes_occur(tmp_path: Path) -> None:
    make_checkpoint(config(), tmp_path / "out", seed=3)
    checkpoint = open_checkpoint(tmp_path / "out")  # `read` refuses NaN, infinity, bad tables
    linears = []
    for name in checkpoint.names():
        values, role = checkpoint.read(name), checkpoint.parameter(name).role
        if role == "table":
            assert set(np.unique(values)) == set(range(4))
        elif name.endswith(("norm.weight", "_scale")):
            assert (values == 1).all()
        elif role == "linear":
            linears.append((values**2).mean() * values.shape[1])
        elif role in ("expert", "half") and name != "embed.weight":
            # At least 64 rows of 32 to 128: five sigma of a mean square are 0.2.
            assert abs((values**2).mean() * values.shape[1] - 1) < 0.2, name
    # A small matrix is one or two tiles, whose scale is one of two powers of two around the wanted
    # one; that many of them average out.
    assert 0.2 < min(linears) <= max(linears) < 4.5
    assert abs(np.mean(linears) - 1) < 0.35
    expert = checkpoint.stored("layers.0.ffn.experts.0.w1.weight")
    assert len(np.unique(expert.data)) == 256
    linear = checkpoint.stored("layers.0.attn.wq_b.weight")
    assert len(np.unique(linear.data)) == 254  # E4M3 has two codes for NaN


def test_the_model_runs_and_prefers_no_token(tmp_path: Path) -> None:
    make_checkpoint(config(), tmp_path / "out")
    model = load_model(tmp_path / "out", backend="cpu", rounding="release", fallback=False)
    ids = torch.randint(0, 512, (200,), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits = model.logits(model(ids, [200], [model.new_state()]))
    assert 0.5 < float(logits.std()) < 2  # rows of unit RMS times rows of norm 1
    assert len(set(logits.argmax(-1).tolist())) > 50


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_seed_decides_every_byte(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        make_checkpoint(config(), tmp_path / name, seed=seed)
    first, same, other = (files(tmp_path / name) for name in "abc")
    assert first == same
    assert {name for name in first if first[name] == other[name]} == {
        "config.json", "model.safetensors.index.json",
    }  # fmt: skip


def test_a_run_that_was_cut_off_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    steps = 0

    def stop(done: int, total: int) -> None:
        nonlocal steps
        steps += 1
        if steps == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_checkpoint(config(), tmp_path / "a", progress=stop)
    assert not (tmp_path / "a").exists()
    with pytest.raises(CheckpointError, match="unfinished run"):
        make_checkpoint(config(), tmp_path / "a", seed=1)
    assert make_checkpoint(config(), tmp_path / "a").resumed == 20
    assert make_checkpoint(config(), tmp_path / "b").resumed == 0
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
