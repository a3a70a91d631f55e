"""Prompts equal the official encoder's, byte for byte, on the conversations it is tested with."""

import json
from pathlib import Path
from typing import Any

import pytest

from dougong.chat import special
from dougong.chat.prompt import render, render_pieces

FOLDER = Path(__file__).parent / "encoding"
# Number of the conversation -> whether its prompt was rendered in thinking mode.
THINKING = {1: True, 2: True, 3: True, 4: False}


def conversation(number: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]] | None]:
    value = json.loads((FOLDER / f"input_{number}.json").read_text(encoding="utf-8"))
    if isinstance(value, dict):
        return value["messages"], value["tools"]
    return value, None


@pytest.mark.parametrize("number", THINKING)
def test_prompt_is_the_official_one(number: int) -> None:
    messages, tools = conversation(number)
    expected = (FOLDER / f"output_{number}.txt").read_bytes()
    text = render(messages, tools=tools, thinking=THINKING[number])
    assert text.encode("utf-8") == expected


@pytest.mark.parametrize("number", THINKING)
def test_pieces_tell_every_special_token_of_the_official_prompt(number: int) -> None:
    """The four conversations hold no special string of a user's: all of them are markup."""
    messages, tools = conversation(number)
    pieces = render_pieces(messages, tools=tools, thinking=THINKING[number])
    strings = special.LEADING + special.TRAILING
    for piece in pieces:
        assert piece.is_special == (piece.text in strings)
        assert piece.is_special or not any(string in piece.text for string in strings)
