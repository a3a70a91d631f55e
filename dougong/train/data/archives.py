"""Reading package archives in memory: npm's and PyPI's (tar, zip) and Debian's (ar around a tar).

Nothing is ever unpacked to disk and no path of an archive is followed, so a hostile member name
does nothing.
"""

from __future__ import annotations

import io
import re
import tarfile
import zipfile
from pathlib import Path

from dougong.errors import TrainingError

AR_MAGIC = b"!<arch>\n"
AR_HEADER_BYTES = 60  # name 16, date 12, owner 6, group 6, mode 8, size 10, end 2


def read_archive(path: Path, members: str) -> dict[str, bytes]:
    """The members whose whole name matches the pattern (name -> bytes), in order of their names.

    Raises:  TrainingError if this is no archive that can be read.
    """
    wanted = re.compile(members)
    try:
        if path.suffix == ".whl":
            found = _read_zip(path, wanted)
        elif path.suffix == ".deb":
            found = _read_tar(_debian_data(path.read_bytes()), wanted)
        else:
            found = _read_tar(path.read_bytes(), wanted)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, ValueError) as error:
        reason = str(error).split("\n")[0]
        raise TrainingError(f"{path} cannot be read: {reason}; delete it and try again") from error
    return {name: found[name] for name in sorted(found)}


def _read_zip(path: Path, wanted: re.Pattern[str]) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist() if wanted.fullmatch(name)}


def _read_tar(content: bytes, wanted: re.Pattern[str]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:*") as archive:
        for member in archive:
            if member.isfile() and wanted.fullmatch(member.name):
                handle = archive.extractfile(member)
                found[member.name] = handle.read() if handle is not None else b""
    return found


def _debian_data(package: bytes) -> bytes:
    """The `data.tar.*` of a Debian package. Source: deb(5)."""
    position = len(AR_MAGIC)
    while package.startswith(AR_MAGIC) and position + AR_HEADER_BYTES <= len(package):
        header = package[position : position + AR_HEADER_BYTES]
        size = int(header[48:58])
        position += AR_HEADER_BYTES
        if header[:16].startswith(b"data.tar"):
            return package[position : position + size]
        position += size + size % 2
    raise ValueError("it is not a Debian package")
