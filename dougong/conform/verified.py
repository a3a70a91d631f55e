"""What was last verified here: a small file in the user's cache folder.

One entry for each backend, build of the native library and processor; another build or another
machine has to be verified again.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dougong.conform.kernels import Verdict
from dougong.kernels.cpu.library import library_file

MOST_ENTRIES = 20


@dataclass(frozen=True, kw_only=True)
class Verified:
    """One operator: when, how many cases, their largest error as a share of what may be."""

    date: str
    cases: int
    worst: float | None
    ok: bool


def verified_file() -> Path:
    """Where it is kept: below XDG_CACHE_HOME, or ~/.cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "dougong" / "verified.json"


def remember(backend: str, processor: str, verdicts: dict[str, Verdict]) -> Path:
    """Keeps the verdicts in place of earlier ones of the same build and processor; OSError if the
    folder cannot be written.
    """
    path, this = verified_file(), _key(backend, processor)
    date = datetime.now(UTC).isoformat(timespec="seconds")
    found: dict[str, dict[str, Any]] = {}
    for name, verdict in verdicts.items():
        kept = {key: value for key, value in verdict.as_dict().items() if key != "failures"}
        found[name] = asdict(Verified(date=date, **kept))
    entries = {known: value for known, value in _read(path).items() if known != this}
    newest = dict([*entries.items(), (this, found)][-MOST_ENTRIES:])
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(newest, indent=1), encoding="utf-8")
    partial.replace(path)
    return path


def recall(backend: str, processor: str) -> dict[str, Verified]:
    """What `remember` kept of this build on this processor; nothing if the file is not ours."""
    try:
        found = _read(verified_file()).get(_key(backend, processor), {})
        return {name: Verified(**one) for name, one in found.items()}
    except (TypeError, AttributeError):  # another version's entries
        return {}


def _key(backend: str, processor: str) -> str:
    build = hashlib.sha256(library_file().read_bytes()).hexdigest()[:16]
    return f"{backend} {build} {processor}"


def _read(path: Path) -> dict[str, dict[str, dict[str, Any]]]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none yet, or cut short by something else
        return {}
    return entries if isinstance(entries, dict) else {}
