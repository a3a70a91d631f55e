"""A card: every run that made the weights, wherever its folder lay, with its data and losses."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from support import training

from dougong.config import load_config
from dougong.errors import TrainingError
from dougong.plan.parameters import parameters_active, parameters_total
from dougong.train.card import TRAINING, architecture, history, write_card
from dougong.train.config import run_config_from_dict
from dougong.train.evaluation.card import CARD, CLOSE, OPEN
from dougong.train.progress import CURVE_FILE, LOG_FILE, read_log
from dougong.train.run import Run, open_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    """A run of four steps, and one of two that began with its weights."""
    home = tmp_path_factory.mktemp("home")
    inputs = training.write_inputs(home)
    first = training.trained(training.run_config(inputs, home / "first", steps=4))
    values = training.values(inputs, home / "second", steps=2) | {"start": str(home / "first")}
    return first, training.trained(run_config_from_dict(values))


@pytest.fixture(scope="module")
def folder(runs: tuple[Run, Run], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    assert write_card(runs[1], folder) == folder / CARD
    return folder


def test_every_run_is_told_with_its_configuration_and_losses(
    runs: tuple[Run, Run], folder: Path
) -> None:
    told = json.loads((folder / TRAINING).read_text())["runs"]
    assert [one["config"]["output"]["folder"] for one in told] == ["first", "second"]
    assert [one["config"]["start"] for one in told] == ["", "first"]
    assert [one["steps"] for one in told] == [4, 2]
    for one, run in zip(told, runs, strict=True):
        assert one["tokens"] == run.tokens
        losses = [line["loss"] for line in read_log(run.folder / LOG_FILE)]
        assert one["loss"] == pytest.approx(sum(losses) / len(losses))
        schedule = run_config_from_dict(one["config"]).schedule
        assert schedule == run.config.schedule
    assert str(runs[0].folder.parent) not in (folder / TRAINING).read_text()


def test_the_card_is_whole_and_waits_for_an_evaluation(runs: tuple[Run, Run], folder: Path) -> None:
    card = (folder / CARD).read_text()
    assert "$" not in card
    assert f"{OPEN}\n{CLOSE}" in card
    assert "* `second`, begun with the weights of `first`: 2 steps, " in card
    assert "| family | run 1, phase 1 | run 1, phase 2 | run 2, phase 1 | run 2, phase 2 |" in card
    assert str(runs[0].folder.parent) not in card
    assert (folder / CURVE_FILE).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("preset", ["nano", "mini"])
def test_the_card_counts_as_the_planner_does(preset: str) -> None:
    config = load_config(preset)
    words = architecture(config)
    assert words["active"] == f"{parameters_active(config) / 1e6:.1f}"
    assert words["parameters"] == f"{parameters_total(config, with_mtp=True) / 1e6:.1f}"


def test_a_run_whose_beginning_is_gone_says_so(runs: tuple[Run, Run], tmp_path: Path) -> None:
    second = runs[1].config
    with pytest.raises(TrainingError, match="has no checkpoint: the card cannot tell how it began"):
        history(replace(second, start=str(tmp_path)))
    with pytest.raises(TrainingError, match="has no log.jsonl: the card cannot tell"):
        history(replace(second, output=replace(second.output, folder=str(tmp_path))))


def test_a_run_can_be_opened_again_for_its_card(runs: tuple[Run, Run], folder: Path) -> None:
    again = open_run(runs[1].config, quiet=True)
    assert again.done
    before = (folder / CARD).read_text()
    write_card(again, folder)
    assert (folder / CARD).read_text() == before
