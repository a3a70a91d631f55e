"""Writes each public text's SHA-256 and size into dougong/data/train/sources.toml.

For maintainers, when a package's version or the cleaning of its text has changed:

    python tools/record_sources.py [--folder ~/.cache/dougong/data] [NAME ...]
"""

from __future__ import annotations

import argparse
import hashlib
import re
from pathlib import Path

from dougong.train.data.archives import read_archive
from dougong.train.data.extract import documents_of
from dougong.train.data.sources import SOURCES, canonical, fetch

TABLE = Path(__file__).resolve().parent.parent / "dougong/data/train/sources.toml"


def record(name: str, folder: Path) -> None:
    """Extracts one source's text and writes its two figures into the table."""
    source = SOURCES[name]
    documents = documents_of(source.format, read_archive(fetch(source, folder), source.members))
    content = canonical(documents)
    figures = {
        "text_sha256": f'"{hashlib.sha256(content).hexdigest()}"',
        "characters": f"{len(content.decode()):_}",
    }
    table = TABLE.read_text("utf-8")
    for key, value in figures.items():
        pattern = rf"(^\[{re.escape(name)}\]$(?:\n(?!\[).*)*?\n{key} = ).*"
        table, count = re.subn(pattern, lambda m, v=value: m[1] + v, table, flags=re.MULTILINE)
        assert count == 1, f"{name}: {key} stands in the table {count} times"
    TABLE.write_text(table, "utf-8")
    print(f"{name}: {len(documents):,} documents, {figures}", flush=True)


def main() -> None:
    """Records the named sources, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*SOURCES, []])
    parser.add_argument("--folder", type=Path, default=Path("~/.cache/dougong/data"))
    arguments = parser.parse_args()
    for name in arguments.names or SOURCES:
        record(name, arguments.folder.expanduser())


if __name__ == "__main__":
    main()
