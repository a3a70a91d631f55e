"""Safetensors files made by hand, so that they can be wrong."""

import json
import struct
from pathlib import Path
from typing import Any


def entry(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def file_bytes(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """A file with this header (an object, or text as it is) that claims `length` bytes of it."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    claimed = len(text) if length is None else length
    return struct.pack("<Q", claimed) + text + data


def read_header(path: Path) -> tuple[dict[str, Any], bytes]:
    """The header of a well-formed file, and its data."""
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + length]), content[8 + length :]
