"""A tokenizer that does not fit is refused by file and reason; texts are never changed."""

import json
from pathlib import Path
from typing import Any

import pytest

from dougong.chat import Tokenizer, encode_conversation, load_tokenizer, special
from dougong.chat.train_bpe import save_tokenizer, train_bpe
from dougong.errors import CheckpointError, InputError

VOCAB_SIZE = 310


@pytest.fixture(scope="module")
def written() -> dict[str, Any]:
    """A tokenizer.json as a dict, for tests to spoil."""
    inner = train_bpe(["the key opens the old door by the river"] * 3, VOCAB_SIZE)
    content: dict[str, Any] = json.loads(inner.to_str())
    return content


def write(folder: Path, content: dict[str, Any]) -> Path:
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def test_a_written_folder_loads_with_the_same_ids(tmp_path: Path) -> None:
    inner = train_bpe(["the key opens the old door by the river"] * 3, VOCAB_SIZE)
    save_tokenizer(inner, tmp_path)
    loaded = load_tokenizer(tmp_path)
    text = f"{special.USER}the key 42 你好{special.ASSISTANT}"
    assert loaded.encode(text) == inner.encode(text).ids
    assert (loaded.bos_id, loaded.eos_id, loaded.num_ids) == (0, 1, VOCAB_SIZE)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="tokenizer.json does not exist"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": "1.0"}', "\x00" * 100])
def test_malformed_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "tokenizer.json").write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match="tokenizer.json is not a tokenizer"):
        load_tokenizer(tmp_path)


def test_missing_end_of_sentence_is_named(tmp_path: Path, written: dict[str, Any]) -> None:
    content = json.loads(json.dumps(written).replace("end\\u2581of\\u2581sentence", "stop"))
    with pytest.raises(CheckpointError, match="no special token '<｜end▁of▁sentence｜>'"):
        load_tokenizer(write(tmp_path, content))


def test_missing_chat_token_is_named_when_it_is_needed(
    tmp_path: Path, written: dict[str, Any]
) -> None:
    content = json.loads(json.dumps(written))
    added = content["added_tokens"]
    content["added_tokens"] = [token for token in added if token["content"] != special.USER]
    tokenizer = load_tokenizer(write(tmp_path, content))
    with pytest.raises(CheckpointError, match="no special token '<｜User｜>'"):
        encode_conversation(tokenizer, [{"role": "user", "content": "q"}])


def test_tokenizer_that_is_not_byte_level_is_refused(
    tmp_path: Path, written: dict[str, Any]
) -> None:
    content = written | {"decoder": {"type": "Fuse"}}
    with pytest.raises(CheckpointError, match="is not byte-level"):
        load_tokenizer(write(tmp_path, content))


def test_ids_beyond_the_models_vocabulary_are_refused(
    tmp_path: Path, written: dict[str, Any]
) -> None:
    write(tmp_path, written)
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"vocab_size": VOCAB_SIZE}))
    assert load_tokenizer(tmp_path).num_ids == VOCAB_SIZE
    config.write_text(json.dumps({"vocab_size": VOCAB_SIZE - 1}))
    with pytest.raises(CheckpointError, match="has ids up to 309, but .* vocab_size of 309"):
        load_tokenizer(tmp_path)


def test_limits_left_in_the_file_do_not_cut_or_pad(tmp_path: Path, written: dict[str, Any]) -> None:
    truncation = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    padding = {"strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": None}
    padding |= {"pad_id": 2, "pad_type_id": 0, "pad_token": special.PAD}
    spoilt = load_tokenizer(write(tmp_path, written | {"truncation": truncation}))
    assert spoilt.decode(spoilt.encode("the old door")) == "the old door"
    spoilt = load_tokenizer(write(tmp_path, written | {"padding": padding}))
    assert spoilt.decode(spoilt.encode("the")) == "the"


@pytest.fixture(scope="module")
def tokenizer(written: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return load_tokenizer(write(tmp_path_factory.mktemp("tokenizer"), written))


@pytest.mark.parametrize("token_id", [-1, VOCAB_SIZE, 2**70])
def test_unknown_id_is_named(tokenizer: Tokenizer, token_id: int) -> None:
    with pytest.raises(InputError, match=f"Id {token_id} is not in .* 310 ids"):
        tokenizer.decode([0, token_id])


def test_half_a_surrogate_pair_is_refused(tokenizer: Tokenizer) -> None:
    for with_special in (True, False):
        with pytest.raises(InputError, match="surrogate pair at character 3"):
            tokenizer.encode("the\ud800", special=with_special)


def test_special_strings_are_ordinary_text_when_asked(tokenizer: Tokenizer) -> None:
    for text in special.LEADING + special.TRAILING:
        assert tokenizer.encode(text) == [tokenizer.special_id(text)]
        ids = tokenizer.encode(text, special=False)
        assert len(ids) > 1
        assert tokenizer.decode(ids) == text


def test_a_character_split_over_ids_is_held_back(tokenizer: Tokenizer) -> None:
    decoder = tokenizer.stream_decoder()
    parts = [decoder.push(token_id) for token_id in tokenizer.encode("你")]
    assert parts == ["", "", "你"]
    decoder.push(tokenizer.encode("你")[0])
    assert decoder.finish() == "\ufffd"
