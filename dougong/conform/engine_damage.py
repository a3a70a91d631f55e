"""What can happen to the files of a state store; all of it must be misses, never wrong tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random


def damage(folder: Path, rng: Random) -> int:
    """Damages up to a quarter of the state files in `folder`, and perhaps its index; how many.

    No process may have the folder open.
    """
    if rng.random() < 0.1:
        for path in folder.glob("index.sqlite*"):
            path.unlink()
    files = sorted(folder.glob("??/*"))
    chosen = rng.sample(files, rng.randint(0, len(files) // 4)) if rng.random() < 0.5 else []
    for path in chosen:
        rng.choice(DAMAGES)(path, rng.choice(files), rng)
    return len(chosen)


def lose_resumes(folder: Path) -> None:
    """Removes all resume points, as another process may at any time: windows are missing."""
    for path in folder.glob("??/*.resume"):
        path.unlink()


def _flip(path: Path, other: Path, rng: Random) -> None:
    data = bytearray(path.read_bytes() if path.exists() else b"")
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)


def _cut(path: Path, other: Path, rng: Random) -> None:
    data = path.read_bytes() if path.exists() else b""
    path.write_bytes(data[: rng.randint(0, len(data))])


def _replace(path: Path, other: Path, rng: Random) -> None:
    """By another one, whole and well signed."""
    if other.exists():
        path.write_bytes(other.read_bytes())


def _splice(path: Path, other: Path, rng: Random) -> None:
    if path.exists() and other.exists():
        data = path.read_bytes()
        at = rng.randint(0, len(data))
        path.write_bytes(data[:at] + other.read_bytes()[at:])


def _remove(path: Path, other: Path, rng: Random) -> None:
    path.unlink(missing_ok=True)


DAMAGES: tuple[Callable[[Path, Path, Random], None], ...] = (
    _flip, _cut, _replace, _splice, _remove,
)  # fmt: skip
