"""What a long job has finished, on the disk, so that it can go on after being killed.

One JSON object a line: the job itself first, then a row for each finished part. A last line that
was cut off in the middle does not count.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from pathlib import Path
from typing import Any

from dougong.errors import CheckpointError


class Journal:
    """The journal of `job` in the file `path`, which is created, or taken up if it is there.

    rows: what is finished, earlier runs included. Use it as a context: it keeps others out.
    """

    def __init__(self, path: Path, job: dict[str, Any]) -> None:
        """Raises CheckpointError if the file belongs to another job or to a running process."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b")
        except OSError as problem:
            raise CheckpointError(f"{path} cannot be written: {problem.strerror}.") from None
        self._pending: list[bytes] = []
        self._saved_s = time.monotonic()
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise CheckpointError(f"{path.parent} is being written by another process.") from None
        try:
            first, *self.rows = self._read() or [job]
            if first != job:
                raise CheckpointError(
                    f"{path.parent} holds an unfinished run with other options or another source; "
                    "repeat that command to finish it, or remove the folder."
                )
            if not self._file.tell():
                self._pending.append(_line(job))
                self.save()
        except CheckpointError:
            self._file.close()
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, row: dict[str, Any]) -> None:
        """Notes a finished part; `save` puts it on the disk."""
        self.rows.append(row)
        self._pending.append(_line(row))

    def seconds_unsaved(self) -> float:
        """How long ago `save` was last called."""
        return time.monotonic() - self._saved_s

    def save(self) -> None:
        """Puts all rows on the disk; what they speak of must be there already."""
        self._file.write(b"".join(self._pending))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._pending.clear()
        self._saved_s = time.monotonic()

    def _read(self) -> list[dict[str, Any]]:
        """The whole lines, after which the file is cut and positioned."""
        self._file.seek(0)
        lines = self._file.read().split(b"\n")[:-1]
        self._file.truncate(sum(len(line) + 1 for line in lines))
        self._file.seek(0, os.SEEK_END)
        try:
            return [json.loads(line) for line in lines]
        except ValueError:
            raise CheckpointError(
                f"{self._file.name} is damaged; remove its folder and start over."
            ) from None


def fingerprint(folder: Path) -> dict[str, list[int]]:
    """Size and time of change of each file that makes a checkpoint, by name."""
    files = [folder / "config.json", *sorted(folder.glob("*.safetensors"))]
    return {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in files}


def _line(row: dict[str, Any]) -> bytes:
    return json.dumps(row, separators=(",", ":")).encode() + b"\n"
