"""What the owner of an engine chooses: where states are kept, and how tokens are guessed ahead."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from dougong.engine.windows import Windows
from dougong.errors import InputError

MOST_DRAFTS = 15  # one less than the tokens that a state can take back
DEFAULT_LOOKUP = 7  # a step of 8 tokens: what backend cpu records its programs for


@dataclass(frozen=True, kw_only=True)
class StateSettings:
    """Where the states of requests and of the prefix cache are kept.

    `memory_bytes`: if the compressed entries take more, they are kept in a mapped file in `scratch`
    (None: the system's folder for temporary files) instead of in memory.
    `resume_bytes`: the most that resume points of the cache take in memory.
    `windows`: behind which blocks there are resume points.
    `folder`, `folder_bytes`: keeps blocks and resume points on disk too, least recently used first
    out, for restarts and other processes.
    Raises InputError for negative sizes.
    """

    memory_bytes: int | None = None
    scratch: Path | None = None
    resume_bytes: int = 256 * 2**20
    windows: Windows = field(default_factory=Windows)
    folder: Path | None = None
    folder_bytes: int = 16 * 2**30

    def __post_init__(self) -> None:
        for name in ("memory_bytes", "resume_bytes", "folder_bytes"):
            if (getattr(self, name) or 0) < 0:
                raise InputError(f"state settings: {name} is {getattr(self, name)}; 0 or more.")


@dataclass(frozen=True, kw_only=True)
class DraftSettings:
    """How many tokens are guessed ahead at most: `lookup` from the text itself, `mtp` by the
    model's own block. 0 turns one off. Guesses change how fast an answer comes, never the answer.
    `always`: guess even where it does not pay (for tests and measurements).

    Raises InputError for more than 15 of either.
    """

    lookup: int = 0
    mtp: int = 0
    always: bool = False

    def __post_init__(self) -> None:
        for name, count in (("lookup", self.lookup), ("mtp", self.mtp)):
            if not 0 <= count <= MOST_DRAFTS:
                raise InputError(f"drafts: {name} is {count}; 0 to {MOST_DRAFTS} are possible.")
