"""Text of an answer: stop strings at every cut, characters of several tokens."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dougong.chat.tokenizer import Tokenizer, load_tokenizer
from dougong.checkpoint.locate import find_checkpoint
from dougong.engine.text import TextStream
from dougong.errors import InputError


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer(find_checkpoint("nano"))


def shown(tokenizer: Tokenizer, text: str, stops: list[str]) -> tuple[str, TextStream]:
    stream = TextStream(tokenizer, stops)
    pieces = [stream.push(token) for token in tokenizer.encode(text)]
    return "".join(pieces) + stream.finish(), stream


@settings(max_examples=200, deadline=None)
@given(
    st.text("ab \né中😀", max_size=40),
    st.lists(st.text("ab \né", min_size=1, max_size=4), max_size=3),
)
def test_the_text_ends_before_the_stop_string_that_is_complete_first(
    tokenizer: Tokenizer, text: str, stops: list[str]
) -> None:
    expected, decoder, known = text, tokenizer.stream_decoder(), ""
    for token in tokenizer.encode(text):
        known += decoder.push(token)
        if cuts := [known.find(stop) for stop in stops if stop in known]:
            expected = text[: min(cuts)]
            break
    got, stream = shown(tokenizer, text, stops)
    assert got == stream.text == expected
    assert (stream.stopped_by is not None) == any(stop in text for stop in stops)


def test_a_beginning_of_a_stop_string_is_held_back_until_it_is_none(tokenizer: Tokenizer) -> None:
    stream = TextStream(tokenizer, ["abc"])
    before = "".join(stream.push(token) for token in tokenizer.encode("x a b ab"))
    assert before == "x a b "
    assert stream.finish() == "ab"


def test_a_stop_string_that_comes_too_early_is_text_like_any_other(tokenizer: Tokenizer) -> None:
    stream, early = TextStream(tokenizer, ["bc", "abcd"]), tokenizer.encode("x abc")
    before = "".join(stream.push(token, may_stop=False) for token in early)
    assert before == "x "  # "abc" may go on to "abcd"
    assert stream.push(tokenizer.encode("e")[0]) == "abce"
    later = "".join(stream.push(token) for token in tokenizer.encode("fbcg"))
    assert (later, stream.text, stream.stopped_by) == ("f", "x abcef", "bc")


def test_odd_stop_strings_are_refused(tokenizer: Tokenizer) -> None:
    for stops in ([""], ["a" * 300], ["a"] * 17):
        with pytest.raises(InputError, match="at most 16 strings"):
            TextStream(tokenizer, stops)
