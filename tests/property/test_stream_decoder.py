"""A stream of ids gives whole characters, and in the end exactly the text of all ids."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dougong.chat import Tokenizer
from dougong.chat.train_bpe import train_bpe

VOCAB_SIZE = 310


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(train_bpe(["the key opens the old door by the river"] * 3, VOCAB_SIZE))


@settings(max_examples=300)
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_text_arrives_in_whole_characters(tokenizer: Tokenizer, text: str) -> None:
    decoder = tokenizer.stream_decoder()
    parts = [decoder.push(token_id) for token_id in tokenizer.encode(text)]
    assert "".join(parts) == text
    assert decoder.finish() == ""
    for length in range(len(parts)):
        assert text.startswith("".join(parts[:length]))


@settings(max_examples=300)
@given(ids=st.lists(st.integers(0, VOCAB_SIZE - 1)))
def test_any_ids_give_the_text_of_the_full_decode(tokenizer: Tokenizer, ids: list[int]) -> None:
    decoder = tokenizer.stream_decoder()
    parts = [decoder.push(token_id) for token_id in ids]
    assert "".join(parts) + decoder.finish() == tokenizer.decode(ids)
