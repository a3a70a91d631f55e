"""The trained tokenizer: V4's strings at fixed ends, single digits, every byte, reproducible."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoTokenizer

from dougong.chat import special
from dougong.chat.train_bpe import save_tokenizer, train_bpe
from dougong.errors import InputError

SENTENCE = "the fox carried a key across the river and asked the old heron what it opens"
WORDS = SENTENCE.split()
TEXTS = [" ".join(WORDS[(i * j) % len(WORDS)] for j in range(30)) for i in range(1, 60)]
THOUGHT = "in 1984 and 1984 <think>the key</think> <think>the key</think>"
VOCAB_SIZE = 340


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe([*TEXTS, THOUGHT], VOCAB_SIZE)


def test_ids_are_three_specials_then_bytes_then_merges_then_v4_strings(
    tokenizer: Tokenizer,
) -> None:
    assert tokenizer.get_vocab_size() == VOCAB_SIZE
    assert [tokenizer.id_to_token(i) for i in range(3)] == list(special.LEADING)
    byte_tokens = [tokenizer.id_to_token(i) for i in range(3, 259)]
    assert sorted(byte_tokens) == sorted(ByteLevel.alphabet())
    first = VOCAB_SIZE - len(special.TRAILING)
    tail = [tokenizer.id_to_token(i) for i in range(first, VOCAB_SIZE)]
    assert tail == list(special.TRAILING)
    assert all(len(tokenizer.id_to_token(i)) > 1 for i in range(259, first))


def test_every_special_string_is_one_id(tokenizer: Tokenizer) -> None:
    for text in special.LEADING + special.TRAILING:
        assert tokenizer.encode(f"a{text}b").ids[1:-1] == [tokenizer.token_to_id(text)]


def test_digits_are_single_tokens(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("1984").tokens == ["1", "9", "8", "4"]


def test_no_merge_contains_a_special_string(tokenizer: Tokenizer) -> None:
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    assert not [pair for pair in merges if "think" in "".join(pair) or "<" in "".join(pair)]


def test_training_is_reproducible_and_does_not_depend_on_text_order() -> None:
    first = train_bpe(TEXTS, VOCAB_SIZE).to_str()
    assert train_bpe(iter(TEXTS), VOCAB_SIZE).to_str() == first
    assert train_bpe(TEXTS[::-1], VOCAB_SIZE).to_str() == first


def test_transformers_loads_the_saved_folder_with_equal_ids(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    save_tokenizer(tokenizer, tmp_path, model_max_length=4096)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    text = f"{special.BOS}{special.USER}what opens 1984? 你好{special.ASSISTANT}</think>the key"
    assert theirs.encode(text) == tokenizer.encode(text).ids
    assert theirs.decode(theirs.encode(text)) == text
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (0, 1, 2)
    assert theirs.model_max_length == 4096


@pytest.mark.parametrize(
    ("texts", "vocab_size", "message"),
    [
        (TEXTS, 304, "vocab_size 304 is too small"),
        (["only a few words"], 4096, "give only 304 of the 4096 ids"),
    ],
)
def test_impossible_sizes_are_refused(texts: list[str], vocab_size: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        train_bpe(texts, vocab_size)
