"""What `dougong train --samples` prints: whole samples, trained parts marked, shares by phase."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from dougong.chat import special
from dougong.chat.tokenizer import load_tokenizer
from dougong.cli.train import command
from dougong.train.data.encode import encode_sample
from dougong.train.data.show import marked
from dougong.train.data.task import Text, ask
from tests.support import training


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return training.write_inputs(tmp_path_factory.mktemp("show"))


def test_trained_parts_are_marked(inputs: Path) -> None:
    tokenizer = load_tokenizer(inputs)
    shown = marked(encode_sample(ask("Hi", "Hello!"), tokenizer), tokenizer)
    opening = f"{special.BOS}{special.USER}Hi{special.ASSISTANT}{special.END_THINK}"
    assert shown == f"{opening}[[Hello!{special.EOS}]]"
    text = marked(encode_sample(Text("The fox ran."), tokenizer), tokenizer)
    assert text == f"{special.BOS}[[The fox ran.{special.EOS}]]"


def test_samples_of_every_family_are_told_as_json(inputs: Path, tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text(training.run_config(inputs, tmp_path / "run").to_toml())
    result = CliRunner().invoke(command, [str(config), "--samples", "2", "--json"])
    assert result.exit_code == 0, result.output
    families = json.loads(result.stdout)["families"]
    assert [one["family"] for one in families] == list(training.MIX)
    assert [one["shares"] for one in families] == [
        pytest.approx([share, share]) for share in training.MIX.values()
    ]
    for one in families:
        assert len(one["samples"]) == 2
        assert 0 < one["trained"] < 1
        assert one["longest"] >= one["mean_tokens"] > 5
    assert not (tmp_path / "run").exists()
