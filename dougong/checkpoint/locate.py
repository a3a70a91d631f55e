"""From the word a user types for MODEL to the folder that holds it. Never touches the network."""

from __future__ import annotations

import os
import re
from difflib import get_close_matches
from pathlib import Path

from dougong.config import PRESETS
from dougong.errors import CheckpointError

SHIPPED_MODELS = Path(__file__).resolve().parent.parent / "data" / "models"
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_COMMIT = re.compile(r"[\w.-]+")


def shipped_names() -> list[str]:
    """Names of the models inside this package."""
    if not SHIPPED_MODELS.is_dir():
        return []
    return sorted(path.parent.name for path in SHIPPED_MODELS.glob("*/config.json"))


def hub_cache() -> Path:
    """Where Hugging Face tools keep downloads: HF_HUB_CACHE, else HF_HOME/hub, else their default.

    Source: the cache layout documented by huggingface_hub.
    """
    if explicit := os.environ.get("HF_HUB_CACHE"):
        return Path(explicit).expanduser()
    home = os.environ.get("HF_HOME") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface"
    )
    return Path(home).expanduser() / "hub"


def find_checkpoint(name: str | Path) -> Path:
    """The folder of a checkpoint, named by a shipped name, a folder, or org/name in the hub cache.

    A shipped name wins over a folder of the same name; write `./nano` for the folder.
    Raises: CheckpointError if there is none, saying where it was looked for.
    """
    text = str(name)
    if not isinstance(name, str | Path) or not text.strip():
        raise CheckpointError(
            "the model's name is empty or no text; give a folder, a shipped name or org/name."
        )
    if text in shipped_names():
        return SHIPPED_MODELS / text
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_file():
        raise CheckpointError(
            f"{text} is a file; name the folder that holds config.json and the safetensors."
        )
    if _HUB_NAME.fullmatch(text) and (snapshot := _snapshot(text)) is not None:
        return snapshot
    if text in PRESETS:
        raise CheckpointError(
            f"{text} is a preset: a configuration without weights. `dougong model inspect {text}` "
            "shows it; to run it, name the folder of its checkpoint."
        )
    near = get_close_matches(text.lower(), [*PRESETS, *shipped_names()], 1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise CheckpointError(
        f"there is no model '{text}': not a folder, not in the cache {hub_cache()}, and not a "
        f"shipped model ({', '.join(shipped_names()) or 'none is shipped'}).{hint}"
    )


def _snapshot(name: str) -> Path | None:
    """The newest downloaded revision of org/name that `main` points at, or None."""
    repository = hub_cache() / f"models--{name.replace('/', '--')}"
    if not repository.is_dir():
        return None
    main = repository / "refs" / "main"
    commit = main.read_text(encoding="utf-8").strip() if main.is_file() else ""
    folder = repository / "snapshots" / commit
    if not _COMMIT.fullmatch(commit) or commit in {".", ".."} or not folder.is_dir():
        raise CheckpointError(
            f"{repository} holds no finished download of {name}: refs/main does not name a folder "
            "in snapshots; download it again, or name a snapshot's folder."
        )
    return folder
