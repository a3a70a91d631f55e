"""JSON from files that strangers wrote: bounded, no duplicate keys, no NaN (no torch)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NoReturn

from dougong.errors import DougongError


def parse_json_object(text: bytes, where: str, error: type[DougongError]) -> dict[str, object]:
    """The JSON object in `text`; raises `error`, naming `where`, for anything else.

    Python's parser lets a second key silently replace the first, reads NaN, and recurses as deep
    as the file asks: each of these is refused here.
    """

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        result = dict(pairs)
        if len(result) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise error(f"{where}: the key {twice[:100]!r} appears twice; remove one of them.")
        return result

    def constant(name: str) -> NoReturn:
        raise error(f"{where}: {name} is not a JSON number; write a finite value.")

    try:
        value = json.loads(text, object_pairs_hook=unique, parse_constant=constant)
    except (ValueError, RecursionError) as problem:
        raise error(f"{where} is not valid JSON ({str(problem)[:120]}).") from None
    if not isinstance(value, dict):
        raise error(f"{where} holds a JSON {type(value).__name__}; expected an object.")
    return value


def read_json_object(path: Path, max_bytes: int, error: type[DougongError]) -> dict[str, object]:
    """`parse_json_object` of a regular file of at most `max_bytes`; raises `error` otherwise."""
    try:
        if not path.is_file():
            raise error(f"{path} does not exist or is not a regular file.")
        with path.open("rb") as file:
            text = file.read(max_bytes + 1)
    except OSError as problem:
        raise error(f"{path} cannot be read: {problem.strerror}.") from None
    if len(text) > max_bytes:
        raise error(f"{path} is larger than {max_bytes:,} bytes; it is not what its name says.")
    return parse_json_object(text, str(path), error)
