"""Checkpoints from the Hugging Face hub: what one is before it is fetched, and fetching it.

huggingface_hub (extra `hub`) does the transfer, with its own settings: HF_TOKEN, HF_ENDPOINT,
HF_HUB_CACHE, HF_HUB_OFFLINE. Only the files of a safetensors checkpoint are taken, never code.
"""

from __future__ import annotations

import logging
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from dougong.checkpoint.convert import COMPANIONS
from dougong.checkpoint.locate import hub_cache
from dougong.config import ModelConfig, load_config
from dougong.errors import CheckpointError, DougongError, InputError

WANTED = ("config.json", "*.safetensors", "model.safetensors.index.json", *COMPANIONS)
STALE_S = 600.0  # a download that goes on writes more often
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_LOOK_S = 0.5  # between two looks at how much has come


@dataclass(frozen=True)
class Offer:
    """A checkpoint on the hub: its commit, its configuration, and the bytes of each file to fetch.

    folder: where it will be, or None for the local hub cache.
    """

    name: str
    revision: str
    commit: str
    config: ModelConfig
    files: dict[str, int]
    folder: Path | None

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return sum(self.files.values())

    @property
    def place(self) -> Path:
        """The folder that grows."""
        return self.folder or hub_cache() / f"models--{self.name.replace('/', '--')}"

    @property
    def present(self) -> int:
        """Bytes of the files that are there already, each whole."""
        files = self.folder or self.place / "snapshots" / self.commit
        return sum(size for name, size in self.files.items() if (files / name).is_file())


def look(name: str, *, revision: str = "main", folder: Path | None = None) -> Offer:
    """What org/name is on the hub; fetches its config.json only.

    Raises InputError for a malformed name or where huggingface_hub is missing, CheckpointError if
    there is no such model or revision, no access, no connection, or no safetensors checkpoint,
    ConfigError for a model of another kind.
    """
    if not _NAME.fullmatch(name):
        raise InputError(f"{name!r} is no name of a model on the hub; write org/name.")
    hub = _library()
    endpoint = os.environ.get("HF_ENDPOINT")
    with _one_sentence(name, revision), tempfile.TemporaryDirectory() as scratch:
        info = hub.HfApi(endpoint=endpoint).model_info(
            name, revision=revision, files_metadata=True, timeout=30
        )
        found = {file.rfilename: file.size or 0 for file in info.siblings or ()}
        files = {
            file: size
            for file, size in found.items()
            if "/" not in file and any(fnmatch(file, pattern) for pattern in WANTED)
        }
        if "config.json" not in files or not any(f.endswith(".safetensors") for f in files):
            raise CheckpointError(
                f"{name} holds no safetensors checkpoint: config.json and *.safetensors are wanted."
            )
        path = hub.hf_hub_download(
            name, "config.json", revision=info.sha, local_dir=scratch, endpoint=endpoint
        )
        config = load_config(path)
    return Offer(name, revision, str(info.sha), config, files, folder)


def fetch(offer: Offer, progress: Callable[[int, int], None] | None = None) -> Path:
    """Fetches what `look` found; returns the folder with config.json.

    Files that are whole already are kept; called again after being killed it goes on with the
    others. progress: told the bytes that are there and the bytes of all. Raises CheckpointError
    where the connection or the disk fails.
    """
    hub = _library()
    _remove_stale(offer.place)
    with _one_sentence(offer.name, offer.revision), _watched(offer, progress):
        folder = hub.snapshot_download(
            offer.name,
            revision=offer.revision,
            allow_patterns=list(offer.files),
            local_dir=offer.folder,
            cache_dir=hub_cache(),
            endpoint=os.environ.get("HF_ENDPOINT"),
        )
    return Path(folder)


def _library() -> Any:
    try:
        import huggingface_hub
        from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]
        from huggingface_hub.utils.logging import set_verbosity
    except ImportError:
        raise InputError(
            "fetching needs huggingface_hub, which is not installed; run pip install 'dougong[hub]'"
            ", or fetch the files yourself and name their folder."
        ) from None
    disable_progress_bars()  # its own would be drawn over ours
    set_verbosity(logging.ERROR)  # what it warns of it tries again, or raises
    return huggingface_hub


@contextmanager
def _one_sentence(name: str, revision: str) -> Iterator[None]:
    """Turns what the library raises into CheckpointError."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError:
        raise CheckpointError(
            f"{name} asks for an agreement: give it on the model's page, then set HF_TOKEN."
        ) from None
    except errors.RepositoryNotFoundError:
        raise CheckpointError(
            f"there is no model {name} on the hub, or it is private: then set HF_TOKEN."
        ) from None
    except errors.RevisionNotFoundError:
        raise CheckpointError(f"{name} has no revision {revision!r} on the hub.") from None
    except DougongError:
        raise
    except Exception as problem:  # its transport's errors come through, and these have changed
        first = (str(problem) or type(problem).__name__).splitlines()[0].rstrip(".")
        raise CheckpointError(
            f"{name} cannot be fetched: {first[:200]}; try again, what has come is kept."
        ) from None


def _remove_stale(place: Path) -> None:
    """Removes what a killed run left of unfinished files; the library begins those anew."""
    for path in place.rglob("*.incomplete"):
        if time.time() - path.stat().st_mtime > STALE_S:
            path.unlink(missing_ok=True)


@contextmanager
def _watched(offer: Offer, progress: Callable[[int, int], None] | None) -> Iterator[None]:
    """Tells `progress` from time to time how much lies in the folder."""
    done = threading.Event()

    def watch() -> None:
        while progress is not None and not done.wait(_LOOK_S):
            try:
                parts = [path.stat().st_size for path in offer.place.rglob("*.incomplete")]
                progress(min(offer.present + sum(parts), offer.nbytes), offer.nbytes)
            except OSError:  # a file went as it was looked at
                continue

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
