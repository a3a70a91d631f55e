"""Malformed safetensors files (security S29): each defect is one sentence, before any data."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dougong.checkpoint import safetensors_file
from dougong.checkpoint.safetensors_file import SafetensorsFile
from dougong.errors import CheckpointError
from tests.support.safetensors_bytes import entry, file_bytes

GOOD = {"a": entry("F32", [2, 3], 0, 24), "b": entry("I8", [4], 24, 28)}
DATA = bytes(range(28))


def write(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    return path


def test_a_good_file_gives_entries_and_mapped_bytes(tmp_path: Path) -> None:
    header = {"__metadata__": {"format": "pt"}, **GOOD}
    file = SafetensorsFile(write(tmp_path, file_bytes(header, DATA)))
    assert set(file.entries) == {"a", "b"}
    assert file.entries["a"].shape == (2, 3)
    assert file.bytes_of("b").tolist() == [24, 25, 26, 27]
    assert file.bytes_of("a", 4, 8).tolist() == [4, 5, 6, 7]
    assert not file.bytes_of("a").flags.writeable


def changed(name: str, value: Any) -> dict[str, Any]:
    return {**GOOD, name: value}


BAD_FILES = [
    # content, what the sentence must say
    (b"", "has 0 bytes: too short"),
    (b"\x00" * 7, "has 7 bytes: too short"),
    (file_bytes(GOOD, DATA, length=0), "header says it is 0 bytes"),
    (file_bytes(GOOD, DATA, length=2**63), "9,223,372,036,854,775,808 bytes long"),
    (file_bytes(GOOD, DATA, length=10_000), "header says it is 10,000 bytes"),
    (file_bytes(b" " * (9 * 2**20)), "header says it is 9,437,184 bytes"),
    (file_bytes(b"{]"), "header is not valid JSON"),
    (file_bytes(b"[]"), "holds a JSON list"),
    (file_bytes(b'{"a":' * 20_000), "header is not valid JSON"),
    (file_bytes(b'{"a": {}, "a": {}}'), "'a' appears twice"),
    (file_bytes(changed("a", 1), DATA), "'a': expected dtype, shape and data_offsets"),
    (file_bytes(changed("a", {**GOOD["a"], "x": 1}), DATA), "nothing else"),
    (file_bytes(changed("a", entry("F4", [2, 3], 0, 24)), DATA), "dtype F4 is unknown"),
    (file_bytes(changed("a", entry("F32", [2, -3], 0, 24)), DATA), "not a list of up to 8 counts"),
    (file_bytes(changed("a", entry("F32", [2.0, 3], 0, 24)), DATA), "not a list of up to 8"),
    (file_bytes(changed("a", entry("F32", [1] * 9 + [6], 0, 24)), DATA), "not a list of up to 8"),
    (file_bytes(changed("a", entry("F32", [2**32, 2**32], 0, 24)), DATA), "needs 73,786,976,294"),
    (file_bytes(changed("a", entry("F32", [2**60], 0, 24)), DATA), "not a list of up to 8 counts"),
    (file_bytes(changed("a", entry("F32", [True, 6], 0, 24)), DATA), "not a list of up to 8"),
    (file_bytes(changed("a", entry("F32", [2, 2], 0, 24)), DATA), "needs 16 bytes; data_offsets"),
    (file_bytes(changed("a", entry("F32", [6], 24, 0)), DATA), "needs 24 bytes; data_offsets"),
    (file_bytes(changed("a", entry("F32", [6], -24, 0)), DATA), "data_offsets are not two counts"),
    (file_bytes(changed("b", entry("I8", [4], 20, 24)), DATA), "'b' overlaps 'a'"),
    (file_bytes(changed("b", entry("I8", [3], 25, 28)), DATA), "1 bytes before tensor 'b'"),
    (file_bytes({"b": entry("F32", [1], 2, 6)}, b"123456"), "offset 2 is misaligned"),
    (file_bytes(GOOD, DATA[:-1]), "ends at byte .*: it is truncated"),
    (file_bytes(GOOD, DATA + b"x"), "1 bytes after the last tensor"),
    (file_bytes({}, b"x"), "1 bytes after the last tensor"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "said"), BAD_FILES, ids=[said for _, said in BAD_FILES])
def test_a_malformed_file_is_refused_in_one_sentence(
    tmp_path: Path, content: bytes, said: str
) -> None:
    path = write(tmp_path, content)
    with pytest.raises(CheckpointError, match=said) as refusal:
        SafetensorsFile(path)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 1000


def test_too_many_tensors_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real limit is 100,000; a file of that size would only be slower to write."""
    monkeypatch.setattr(safetensors_file, "MAX_TENSORS", 10)
    header = {f"t{i}": entry("I8", [1], i, i + 1) for i in range(11)}
    with pytest.raises(CheckpointError, match="lists 11 tensors; at most 10"):
        SafetensorsFile(write(tmp_path, file_bytes(header, bytes(11))))


def test_a_claim_of_terabytes_allocates_nothing(tmp_path: Path) -> None:
    """A sparse file of 1 TB with a small header is opened by reading that header only."""
    header = {"a": entry("F32", [2**38], 0, 2**40)}
    path = write(tmp_path, file_bytes(header))
    os.truncate(path, path.stat().st_size + 2**40)
    file = SafetensorsFile(path)
    assert file.bytes_of("a", 2**40 - 4, 2**40).view(np.float32).tolist() == [0.0]


def test_a_folder_a_pipe_and_nothing_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder", "nothing"):
        with pytest.raises(CheckpointError, match="missing or not a regular file"):
            SafetensorsFile(tmp_path / name)


def test_metadata_is_not_a_tensor_and_its_content_is_not_used(tmp_path: Path) -> None:
    text = json.dumps({"__metadata__": {"x": "y" * 1000}}).encode()
    assert SafetensorsFile(write(tmp_path, file_bytes(text))).entries == {}
