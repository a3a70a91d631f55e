"""A file for states that are larger than the memory they may take (no torch)."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dougong.errors import InputError


@contextmanager
def scratch_file(folder: Path | None, num_bytes: int, limit: int | None) -> Iterator[Path | None]:
    """A file of `num_bytes` to map inside the `with`, or None if they are within `limit`.

    Its name is gone behind it, so the space is given back with the mapping, even by a kill. All of
    it is reserved at once: a mapped file that finds the disk full later would end the process.
    Raises InputError if there is no such folder or not enough space.
    """
    if limit is None or num_bytes <= limit or num_bytes == 0:
        yield None
        return
    try:
        with tempfile.NamedTemporaryFile(prefix="dougong-states-", dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, num_bytes)
            yield Path(file.name)
    except OSError as problem:
        where = folder or Path(tempfile.gettempdir())
        raise InputError(
            f"states of {num_bytes:,} bytes are more than the {limit:,} that memory may hold, and "
            f"{where} cannot take them ({problem}); choose another folder for them or fewer tokens."
        ) from None
