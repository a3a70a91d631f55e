"""`dougong.load` and `Model`: what a caller may get wrong is said in one sentence."""

from typing import Any

import pytest
import torch
from support.goldens import FOLDER, expected, wanted

import dougong
from dougong.api import Model, serving_rounding
from dougong.errors import BackendError, CheckpointError, InputError

NAME = "s2_csa"


@pytest.fixture(scope="module")
def model() -> Model:
    return dougong.load(FOLDER / NAME)


def test_logits_take_a_list_or_a_tensor(model: Model) -> None:
    ids = expected(NAME)["input_ids"][0, :40]
    from_tensor = model.logits(ids)
    assert torch.equal(from_tensor, model.logits(ids.tolist()))
    assert (from_tensor - wanted(NAME, "logits")[0, :40]).abs().max() < 2e-5


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([0.7, 1.9], r"ids\[0\] is 0.7"),
        ([1, True], r"ids\[1\] is True"),
        ([], "at least one"),
        ("abc", "a list of token ids"),
        (None, "a list of token ids"),
        ([2**70], "a whole number"),
        (torch.zeros(2, 2, dtype=torch.int64), r"expected int64 \[S\]"),
        (torch.zeros(2), "torch.float32"),
        ([0, 10**6], "do not fit a vocabulary"),
    ],
)
def test_ids_that_are_none_are_refused(model: Model, ids: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        model.logits(ids)


@pytest.mark.parametrize("chunks", [[0], [1.5], [-1], [True]])
def test_pieces_of_no_size_are_refused(model: Model, chunks: list[Any]) -> None:
    with pytest.raises(InputError, match="chunks: .* is no size"):
        model.logits([1, 2, 3], chunks=chunks)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_tokens": 2.5}, "max_tokens is 2.5"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"temperature": "a"}, "temperature is 'a'; a number"),
        ({"top_k": 1.5}, "top_k is 1.5; a whole number"),
        ({"seed": True}, "seed is True"),
        ({"raw": True, "thinking": True}, "raw prompt"),
    ],
)
def test_options_of_the_wrong_kind_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        dougong.load("nano").stream("Hello", **options)


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(InputError, match="the prompt is empty"):
        dougong.load("nano").generate("")


@pytest.mark.parametrize("device", ["cuda:99", "zzz"])
def test_a_device_that_is_not_here_is_refused(device: str) -> None:
    with pytest.raises(BackendError, match=f"device '{device}' cannot be used"):
        dougong.load(FOLDER / NAME, device=device)


@pytest.mark.parametrize("name", [None, "", " "])
def test_a_name_that_is_none_is_refused(name: Any) -> None:
    with pytest.raises(CheckpointError, match="name is empty or no text"):
        dougong.load(name)


def test_a_preset_has_no_weights_to_load() -> None:
    with pytest.raises(CheckpointError, match="v4-flash is a preset.*model inspect v4-flash"):
        dougong.load("v4-flash")


def test_quantized_checkpoints_are_served_with_the_release_rounding() -> None:
    assert serving_rounding(FOLDER / "sq2_mtp") == "release"
    assert serving_rounding(FOLDER / NAME) == "none"
