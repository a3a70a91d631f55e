"""From archive members to documents of clean paragraphs, by the format that they are in.

Rules (data specification 1e): of HTML the paragraphs, list items and headings; hard-wrapped lines
joined; short and repeated paragraphs dropped; quotes and dashes in ASCII.
"""

from __future__ import annotations

import gzip
import json
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from html.parser import HTMLParser

MIN_CHARACTERS = 40  # of a paragraph: shorter ones are captions, numbers and links
MIN_LETTERS = 0.75  # share of letters and spaces in a paragraph: below are tables and drawings
TEXT_TAGS = frozenset({"p", "li", "dd", "h1", "h2", "h3"})
SKIPPED_TAGS = frozenset({"pre", "script", "style", "nav", "table", "footer"})
ASCII = str.maketrans({"“": '"', "”": '"', "’": "'", "‘": "'", "—": " - ", "–": "-", "…": "...",
                       "\u00a0": " ", "\u00ad": "", "\u200b": "", "¶": ""})  # fmt: skip
Document = tuple[str, str]
"""A document's name and its text: paragraphs with an empty line between them."""


def plain(text: str) -> str:
    """ASCII quotes and dashes, single spaces."""
    return re.sub(r"\s+", " ", text.translate(ASCII)).strip()


def unwrapped(text: str) -> list[str]:
    """Paragraphs of a text whose lines are broken by hand and whose paragraphs by empty lines."""
    return [plain(part) for part in re.split(r"\n\s*\n", text.replace("\r", ""))]


class _Paragraphs(HTMLParser):
    """Collects the text of a page by paragraph."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[str] = []
        self._open: list[str] = []
        self._skipped = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in SKIPPED_TAGS:
            self._skipped += 1
        elif tag in TEXT_TAGS:
            self._close()

    def handle_endtag(self, tag: str) -> None:
        if tag in SKIPPED_TAGS:
            self._skipped = max(0, self._skipped - 1)
        elif tag in TEXT_TAGS or tag in ("div", "ul", "ol", "dl", "body"):
            self._close()

    def handle_data(self, data: str) -> None:
        if not self._skipped:
            self._open.append(data)

    def _close(self) -> None:
        if text := plain("".join(self._open)):
            self.found.append(text)
        self._open.clear()


def read_html(members: dict[str, bytes]) -> Iterator[Document]:
    """One document for each page; what a page repeats of others is left out."""
    for name, content in members.items():
        parser = _Paragraphs()
        parser.feed(content.decode("utf-8", "replace"))
        parser.close()
        yield name, "\n\n".join(parser.found)


def read_lines(members: dict[str, bytes]) -> Iterator[Document]:
    """Plain text, one paragraph a line."""
    for name, content in members.items():
        text = content.decode("utf-8", "replace")
        yield name, "\n\n".join(filter(None, map(plain, text.splitlines())))


def read_gutenberg(members: dict[str, bytes]) -> Iterator[Document]:
    """Plays and poems: lines are kept as they are, verse is made of them."""
    for name, content in members.items():
        text = content.decode("utf-8", "replace").replace("\r", "").translate(ASCII)
        text = re.split(r"\*\*\* ?END OF TH", text)[0]
        yield name, "\n\n".join(filter(None, (part.strip() for part in re.split(r"\n\s*\n", text))))


def read_chapters(members: dict[str, bytes]) -> Iterator[Document]:
    """Chapters as JSON with the keys chapter, title, text."""
    for name, content in members.items():
        chapter = json.loads(content)
        yield name, f"{plain(chapter['title'])}\n\n{plain(chapter['text'])}"


def read_rdata(members: dict[str, bytes]) -> Iterator[Document]:
    """Novels in an R lazy-load file: blocks of a length and zlib data, each a vector of lines.

    Source: R Internals, 1.8 (serialization formats): a CHARSXP is flags ending in 9, a length
    (-1: missing), and bytes; all numbers are big-endian.
    """
    for content in members.values():
        while len(content) > 4:
            decoder = zlib.decompressobj()
            block = decoder.decompress(content[4:])
            content = decoder.unused_data
            if block.startswith(b"X\n"):
                lines = list(_strings(block))
                yield lines[0], "\n\n".join(filter(None, unwrapped("\n".join(lines))))


def _strings(block: bytes) -> Iterator[str]:
    position = 14 + 4 + struct.unpack_from(">i", block, 14)[0]  # header, then the encoding's name
    kind, count = struct.unpack_from(">ii", block, position)
    position += 8
    for _ in range(count if kind & 0xFF == 16 else 0):  # 16: a vector of strings
        length = max(0, struct.unpack_from(">i", block, position + 4)[0])
        yield block[position + 8 : position + 8 + length].decode("utf-8", "replace")
        position += 8 + length


def read_bible(members: dict[str, bytes]) -> Iterator[Document]:
    """A bible in Chapin's windows of LZW: one document for each book, a paragraph a chapter.

    Source: README.bible of the Debian package bible-kjv: windows of 64 KiB, each compressed by
    itself; their offsets stand in the file's head.
    """
    for content in members.values():
        (count,) = struct.unpack_from(">I", content, 0x58)
        offsets = [*struct.unpack_from(f">{count}I", content, 0x5C), len(content)]
        windows = zip(offsets, offsets[1:], strict=False)
        text = b"".join(unpack_lzw(content[low:high]) for low, high in windows).decode("latin-1")
        books: dict[str, dict[str, list[str]]] = {}
        for book, chapter, verse in re.findall(r"^(\w+?)(\d+):\d+ +(.*)$", text, re.MULTILINE):
            books.setdefault(book, {}).setdefault(chapter, []).append(plain(verse))
        for book, chapters in books.items():
            yield book, "\n\n".join(" ".join(verses) for verses in chapters.values())


def unpack_lzw(data: bytes) -> bytes:
    """Undoes the LZW of Unix `compress`, without its three-byte head.

    Codes grow from 9 to 16 bits, lowest bit first; 256 clears the table. Where the width changes,
    the stream goes on at a multiple of eight codes.
    """
    table = [bytes([byte]) for byte in range(256)] + [b""]
    found, width, bit, group = bytearray(), 9, 0, 0
    before = b""
    while bit + width <= 8 * len(data):
        window = int.from_bytes(data[bit // 8 : bit // 8 + 4], "little")
        number = window >> bit % 8 & (1 << width) - 1
        bit += width
        grows = False
        if number == 256:
            del table[257:]
            before, grows = b"", width > 9
            next_width = 9
        else:
            entry = table[number] if number < len(table) else before + before[:1]
            if before and len(table) < 1 << 16:
                table.append(before + entry[:1])
            found += entry
            before = entry
            grows = len(table) >= 1 << width and width < 16
            next_width = width + 1 if grows else width
        if grows or number == 256:
            eight = 8 * width
            bit = group = group + -(-(bit - group) // eight) * eight
            width = next_width
    return bytes(found)


def read_dictionary(members: dict[str, bytes]) -> Iterator[Document]:
    """Entries of a dictd dictionary, one document a letter; braces mark its cross-references."""
    for content in members.values():
        letters: dict[str, list[str]] = {}
        text = re.sub(
            r"\{\s*([^{}]*)\}", r"\1", gzip.decompress(content).decode("utf-8", "replace")
        )
        for entry in unwrapped(text):
            letters.setdefault(entry[:1].upper(), []).append(entry)
        for letter, entries in letters.items():
            yield letter, "\n\n".join(entries)


def read_raw(members: dict[str, bytes]) -> Iterator[Document]:
    """Members as they are: tables that a generator reads."""
    for name, content in members.items():
        yield name, content.decode("utf-8", "replace")


READERS: dict[str, Callable[[dict[str, bytes]], Iterator[Document]]] = {
    "html": read_html, "lines": read_lines, "gutenberg": read_gutenberg, "rdata": read_rdata,
    "chapters": read_chapters, "bible": read_bible, "dictionary": read_dictionary, "raw": read_raw,
}  # fmt: skip


def documents_of(format_name: str, members: dict[str, bytes]) -> list[Document]:
    """The documents of a package: no paragraph twice, none too short, no document empty.

    Tables for generators (`raw`) are left as they are.
    """
    documents = list(READERS[format_name](members))
    if format_name == "raw":
        return documents
    seen: set[str] = set()
    found: list[Document] = []
    for name, text in documents:
        kept = []
        for paragraph in text.split("\n\n"):
            if _is_prose(paragraph) and paragraph not in seen:
                seen.add(paragraph)
                kept.append(paragraph)
        if kept:
            found.append((name, "\n\n".join(kept)))
    return found


def _is_prose(paragraph: str) -> bool:
    letters = sum(character.isalpha() or character == " " for character in paragraph)
    return len(paragraph) >= MIN_CHARACTERS and letters >= MIN_LETTERS * len(paragraph)
