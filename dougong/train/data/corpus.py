"""Public texts as a mixture draws them: running text, facts, exchanges, and filler for needles.

A document (a speech, a novel, a page, a fact) belongs wholly to training or wholly to the held-out
part: one in twenty by a hash of its name, and those that sources.toml names (all of "Emma", every
speech after 2000).
"""

from __future__ import annotations

import random
import re
import zlib
from bisect import bisect
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

from dougong.train.data.dictionary import Dictionary, read_wordnet
from dougong.train.data.extract import Document, plain
from dougong.train.data.sources import SOURCES, Source, load_documents
from dougong.train.data.task import Task, Text, ask
from dougong.train.data.words import capitalized

HELD_OUT_ONE_IN = 20
FACT_QUESTIONS = ("Tell me a fact.", "Tell me something interesting.", "Do you know a fun fact?",
                  "Tell me a fun fact.", "Tell me an interesting fact.")  # fmt: skip
UNKIND = re.compile(
    r"kill|murder|death|dead|die[sd]?\b|sex|naked|nude|suicide|drug|porn|rape|weapon|gun\b|poop|fart"
    r"|urine|pee\b|condom|testic|penis|breast|hitler|nazi|slave|bomb|terror|corpse|blood",
    re.IGNORECASE,
)


@dataclass
class Shelf:
    """Documents of running text, drawn from by their length and their source's weight."""

    texts: list[str] = field(default_factory=list)
    odds: list[float] = field(default_factory=list)
    _sums: list[float] = field(default_factory=list)

    def add(self, text: str, weight: float) -> None:
        """Adds a document."""
        self.texts.append(text)
        self.odds.append(weight * len(text))
        self._sums.clear()

    def passage(self, rng: random.Random, characters: int) -> str:
        """A stretch of at most `characters`, from one sentence's beginning to another's end."""
        if not self._sums:
            self._sums = list(accumulate(self.odds))
        text = self.texts[bisect(self._sums, rng.random() * self._sums[-1])]
        low = 0
        if len(text) > characters:
            low = sentence_start(text, rng.randrange(len(text) - characters // 2))
        high = low + characters
        if high < len(text):
            high = max(sentence_start(text[:high], 0, last=True), low)
        return text[low:high].strip() or text[low : low + characters].strip()


def sentence_start(text: str, position: int, *, last: bool = False) -> int:
    """Where the first sentence or paragraph behind `position` begins, or the text's last one."""
    find = text.rfind if last else text.find
    candidates = [find(mark, position) + len(mark) for mark in (". ", "\n\n")]
    found = [at for at, mark in zip(candidates, (". ", "\n\n"), strict=True) if at >= len(mark)]
    return (max if last else min)(found, default=position)


@dataclass
class Corpus:
    """What was read: shelves by use (`prose`, `manuals`), facts, exchanges, the dictionary."""

    shelves: dict[str, Shelf] = field(default_factory=dict)
    facts: list[str] = field(default_factory=list)
    talk: list[tuple[str, str]] = field(default_factory=list)
    dictionary: Dictionary = field(default_factory=Dictionary)
    held_out: dict[str, list[Document]] = field(default_factory=dict)  # by source

    def fact(self, rng: random.Random) -> Task:
        """A fact told on request."""
        return ask(rng.choice(FACT_QUESTIONS), rng.choice(self.facts))

    def exchange(self, rng: random.Random) -> Task:
        """A short exchange of small talk from a public collection."""
        return ask(*rng.choice(self.talk))

    def passage(self, rng: random.Random, use: str, characters: int) -> Text:
        """A passage of running text."""
        return Text(self.shelves[use].passage(rng, characters))

    def filler(self, rng: random.Random, characters: int) -> list[str]:
        """Sentences of one passage of prose, to hide needles in."""
        text = plain(self.shelves["prose"].passage(rng, characters))
        return re.split(r"(?<=[.!?]) (?=[A-Z])", text)

    def training_texts(self) -> Iterable[str]:
        """All running text, document by document, and every fact."""
        for shelf in self.shelves.values():
            yield from shelf.texts
        yield from self.facts


def is_held_out(document: str) -> bool:
    """Whether this document belongs to the held-out part by its name."""
    return zlib.crc32(document.encode()) % HELD_OUT_ONE_IN == 0


def load_corpus(folder: Path, names: Iterable[str]) -> Corpus:
    """Reads the named sources, fetching what is missing into `folder`."""
    corpus = Corpus()
    for name in names:
        read_source(SOURCES[name], load_documents(SOURCES[name], folder), corpus)
    return corpus


def read_source(source: Source, documents: list[Document], corpus: Corpus) -> None:
    """Adds the documents of one source to what its use says."""
    if source.use == "words":
        corpus.dictionary = read_wordnet({Path(name).name: text for name, text in documents})
    elif source.use == "trivia":
        corpus.facts += read_facts(documents)
    elif source.use == "greetings":
        corpus.talk += read_talk(documents)
    else:
        _shelve(source, documents, corpus)


def _shelve(source: Source, documents: list[Document], corpus: Corpus) -> None:
    never = re.compile(source.held_out or "(?!)")
    for name, text in documents:
        if never.fullmatch(name) or is_held_out(name):
            corpus.held_out.setdefault(source.name, []).append((name, text))
        else:
            corpus.shelves.setdefault(source.use, Shelf()).add(text, source.weight)


def read_facts(documents: list[Document]) -> list[str]:
    """One-sentence facts: short, kind, in ASCII."""
    found = []
    for line in "\n".join(text for _, text in documents).splitlines():
        fact = plain(line)
        kind = not UNKIND.search(fact)
        if kind and 20 <= len(fact) <= 100 and fact.isascii() and not is_held_out(fact):
            found.append(fact if fact[-1] in ".!?" else fact + ".")
    return found


def read_talk(documents: list[Document]) -> list[tuple[str, str]]:
    """Short pairs from YAML lists: `- - question` and `  - answer`, continued lines indented."""
    found = []
    for _, text in documents:
        text = re.sub(r"\n {4,}", " ", text)
        for talk in re.split(r"^- - ", text, flags=re.MULTILINE)[1:]:
            lines = [line.removeprefix("- ").strip().strip("'\"") for line in talk.split("\n  ")]
            if len(lines) < 2 or not all(3 <= len(plain(line)) <= 90 for line in lines[:2]):
                continue
            question, answer = (capitalized(plain(line)) for line in lines[:2])
            answer = answer if answer[-1] in ".!?" else answer + "."
            kind = not UNKIND.search(question + answer)
            if kind and (question + answer).isascii() and not is_held_out(question):
                found.append((question, answer))
    return found
