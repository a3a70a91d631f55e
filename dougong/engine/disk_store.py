"""Blocks and resume points on disk: what a restart, or another process, finds again.

One file a block (or resume point), named by a hash of the model, the tenant and all tokens up to
its end, so that equal prefixes share files and no caller's text reaches a path. SQLite keeps sizes
and the order of use; it is an index only, and is built anew from the files if it is lost.

The reader trusts nothing: a file is used only if its checksum, keyed with the store's own secret,
covers exactly the bytes there, and its header is the one expected. Anything else is a miss.
Layout: docs/engine.md.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import sqlite3
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from dougong.engine.scheduler import BLOCK_TOKENS
from dougong.errors import InputError

MAGIC = b"DGSTATE\n"
VERSION = 1
# magic, version, kind, model fingerprint, key of the block before, index, payload bytes, token ids
HEADER = struct.Struct(f"<8sII32s32sQQ{BLOCK_TOKENS}I")
KEY_BYTES = 32
_NO_PARENT = bytes(KEY_BYTES)
_LATEST = "(SELECT COALESCE(MAX(used), 0) FROM files)"


class Kind(IntEnum):
    """What a file holds."""

    BLOCK = 0  # the compressed entries of 128 tokens, every layer
    RESUME = 1  # windows and compressor tails right behind them


@dataclass(frozen=True)
class Place:
    """Where a block stands: its name, the name before it, its number and its tokens."""

    key: bytes
    parent: bytes
    index: int
    tokens: tuple[int, ...]


class DiskStore:
    """A folder of state files under a byte budget, for any number of processes at a time.

    Args:
        fingerprint: 32 bytes that differ whenever the same tokens could give other bits: weights,
            number types, rounding, backend, layout.
        budget_bytes: the folder's size; the least recently used files go first.
    Raises: InputError if the folder cannot be made or is not one.
    """

    def __init__(self, folder: Path, fingerprint: bytes, budget_bytes: int) -> None:
        assert len(fingerprint) == KEY_BYTES
        self.folder, self.fingerprint, self.budget_bytes = folder, fingerprint, budget_bytes
        self.problem: str | None = None  # why nothing is written any more
        self._lock = threading.Lock()
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._secret = _secret(folder / "secret")
            self._index = self._open_index()
        except (OSError, sqlite3.Error) as problem:
            raise InputError(
                f"the state store {folder} cannot be opened ({problem}); choose another folder "
                "or run without one."
            ) from None

    def places(self, tenant: str, ids: Sequence[int], known: Sequence[Place] = ()) -> list[Place]:
        """The complete blocks of `ids`, for this model and tenant; `known`: the first of them."""
        found = list(known)
        seed = hashlib.blake2b(tenant.encode(), key=self.fingerprint, digest_size=KEY_BYTES)
        parent = found[-1].key if found else _NO_PARENT
        chain = found[-1].key if found else seed.digest()
        for index in range(len(found), len(ids) // BLOCK_TOKENS):
            tokens = tuple(ids[index * BLOCK_TOKENS : (index + 1) * BLOCK_TOKENS])
            packed = struct.pack(f"<{BLOCK_TOKENS}I", *tokens)
            chain = hashlib.blake2b(chain + packed, digest_size=KEY_BYTES).digest()
            found.append(Place(chain, parent, index, tokens))
            parent = chain
        return found

    def has(self, places: Sequence[Place]) -> set[tuple[bytes, Kind]]:
        """(key, kind) of the files of these places that the index knows."""
        found: set[tuple[bytes, Kind]] = set()
        for low in range(0, len(places), 500):  # SQLite bounds the parameters of a query
            keys = tuple(place.key for place in places[low : low + 500])
            marks = ",".join("?" * len(keys))
            rows = self._sql(f"SELECT key, kind FROM files WHERE key IN ({marks})", [keys])
            found.update((key, Kind(kind)) for key, kind in rows)
        return found

    def find(self, places: Sequence[Place]) -> tuple[int, list[int]]:
        """How many leading blocks are here, and behind which counts of them a resume point is."""
        known = self.has(places)
        count = 0
        while count < len(places) and (places[count].key, Kind.BLOCK) in known:
            count += 1
        resumes = [n for n in range(1, count + 1) if (places[n - 1].key, Kind.RESUME) in known]
        # A running number says what was used last; no change of the clock disturbs it.
        keys = [(place.key,) for place in places[:count]]
        self._sql(f"UPDATE files SET used = {_LATEST} + 1 WHERE key = ?", keys[:1])
        self._sql(f"UPDATE files SET used = {_LATEST} WHERE key = ?", keys[1:])
        return count, resumes

    def read(self, kind: Kind, place: Place, most_bytes: int) -> bytes | None:
        """The payload of at most `most_bytes`; None (and the file is removed) if it is not whole.

        Its size is the file's own: the caller knows what it must be.
        """
        path = self._path(kind, place.key)
        overhead = HEADER.size + KEY_BYTES
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
            with open(descriptor, "rb") as file:
                data = file.read(overhead + most_bytes + 1)
        except OSError:
            self._forget(kind, place.key)
            return None
        header = self._header(kind, place, max(len(data) - overhead, 0))
        body, checksum = data[:-KEY_BYTES], data[-KEY_BYTES:]
        fits = overhead <= len(data) <= overhead + most_bytes and data.startswith(header)
        if not fits or not hmac.compare_digest(checksum, self._checksum(body)):
            self._forget(kind, place.key)
            with suppress(OSError):  # on a read-only disk it stays, and stays a miss
                path.unlink()
            return None
        return body[HEADER.size :]

    def write(self, kind: Kind, place: Place, payload: bytes) -> bool:
        """Keeps a payload; False if it is there already or cannot be written (see `problem`)."""
        size = HEADER.size + len(payload) + KEY_BYTES
        if self.problem is not None or size > self.budget_bytes:
            return False
        path = self._path(kind, place.key)
        row = (place.key, int(kind), size, place.index)
        if path.exists():  # perhaps another process's, which died before it could say so
            self._sql("INSERT OR IGNORE INTO files VALUES (?, ?, ?, ?, 0)", [row])
            return False
        body = self._header(kind, place, len(payload)) + payload
        try:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            self._make_room(size)
            _write_whole(path, body + self._checksum(body))
        except OSError as problem:
            self.stop_writing(problem)
            return False
        self._sql(f"INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, {_LATEST})", [row])
        return True

    def stop_writing(self, problem: Exception) -> None:
        """A full or read-only disk ends writing, not serving."""
        self.problem = f"{self.folder}: {problem}; nothing more is written"

    @property
    def num_bytes(self) -> int:
        """Bytes of all files in the index."""
        rows = self._sql("SELECT COALESCE(SUM(bytes), 0) FROM files")
        return int(rows[0][0]) if rows else 0

    def close(self) -> None:
        """Closes the index."""
        with self._lock:
            self._index.close()

    # -- files ---------------------------------------------------------------------------------

    def _path(self, kind: Kind, key: bytes) -> Path:
        name = key.hex()
        return self.folder / name[:2] / f"{name}.{kind.name.lower()}"

    def _header(self, kind: Kind, place: Place, payload_bytes: int) -> bytes:
        return HEADER.pack(
            MAGIC, VERSION, kind, self.fingerprint, place.parent, place.index, payload_bytes,
            *place.tokens,
        )  # fmt: skip

    def _checksum(self, body: bytes) -> bytes:
        return hashlib.blake2b(body, key=self._secret, digest_size=KEY_BYTES).digest()

    def _make_room(self, size: int) -> None:
        """Removes the least recently used files until `size` bytes fit the budget."""
        excess = self.num_bytes + size - self.budget_bytes
        if excess <= 0:
            return
        # a prefix's last block goes first: without an earlier one it could never be found
        order = "SELECT key, kind, bytes FROM files ORDER BY used, depth DESC, kind DESC"
        for key, kind, num_bytes in self._sql(order):
            if excess <= 0:
                return
            self._path(Kind(kind), key).unlink(missing_ok=True)
            self._forget(Kind(kind), key)
            excess -= num_bytes

    # -- the index -----------------------------------------------------------------------------

    def _open_index(self) -> sqlite3.Connection:
        path = self.folder / "index.sqlite"
        try:
            return self._connect(path)
        except sqlite3.OperationalError as problem:  # read-only: the files can still be read
            self.stop_writing(problem)
            return self._connect(":memory:")
        except sqlite3.DatabaseError:
            path.unlink(missing_ok=True)
            return self._connect(path)

    def _connect(self, path: Path | str) -> sqlite3.Connection:
        connection = sqlite3.connect(
            path, timeout=30.0, isolation_level=None, check_same_thread=False
        )
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = OFF")  # an index can be lost
        connection.execute(
            "CREATE TABLE IF NOT EXISTS files (key BLOB, kind INTEGER, bytes INTEGER, "
            "depth INTEGER, used INTEGER, PRIMARY KEY (key, kind))"
        )
        rows = connection.execute("SELECT key, kind FROM files").fetchall()
        found = list(_files(self.folder))  # after the rows: what came in between is not lost
        lost = set(rows) - {(key, kind) for key, kind, _ in found}
        connection.executemany("DELETE FROM files WHERE key = ? AND kind = ?", lost)
        connection.executemany("INSERT OR IGNORE INTO files VALUES (?, ?, ?, 0, 0)", found)
        return connection

    def _sql(self, command: str, rows: Sequence[tuple[object, ...]] = ((),)) -> list[Any]:
        """Runs a command once a row of parameters; what it fails at is as if nothing were there."""
        results: list[Any] = []
        try:
            with self._lock:
                for row in rows:
                    results.extend(self._index.execute(command, row).fetchall())
        except sqlite3.Error as problem:
            self.stop_writing(problem)
        return results

    def _forget(self, kind: Kind, key: bytes) -> None:
        self._sql("DELETE FROM files WHERE key = ? AND kind = ?", [(key, int(kind))])


def _write_whole(path: Path, data: bytes) -> None:
    """Writes beside the final name, then renames: a kill leaves the old file or the new one."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    try:
        with open(os.open(beside, flags, 0o600), "wb") as file:
            file.write(data)
        beside.rename(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise


def _secret(path: Path) -> bytes:
    """The store's own key, made once: files that were not written with it are misses."""
    if not path.exists():
        beside = path.with_name(f".secret.{os.getpid()}.{secrets.token_hex(4)}")
        _write_whole(beside, secrets.token_bytes(KEY_BYTES))
        try:
            os.link(beside, path)  # fails if another process was first
        except FileExistsError:
            pass
        finally:
            beside.unlink()
    data = path.read_bytes()
    if len(data) != KEY_BYTES:
        raise OSError(f"{path} is not a key of {KEY_BYTES} bytes")
    return data


def _files(folder: Path) -> Iterator[tuple[bytes, int, int]]:
    """(key, kind, bytes) of the state files in `folder`; removes what killed writers left."""
    kinds = {kind.name.lower(): int(kind) for kind in Kind}
    for path in folder.glob("??/*"):
        name, _, suffix = path.name.partition(".")
        try:
            if suffix in kinds and len(name) == 2 * KEY_BYTES:
                yield bytes.fromhex(name), kinds[suffix], path.stat().st_size
            elif not name and not _is_alive(path.name.split(".")[-2]):
                path.unlink()
        except (ValueError, IndexError, OSError):
            continue  # not ours, or gone


def _is_alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
