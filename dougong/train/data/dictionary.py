"""Questions about words out of WordNet: meaning, use, kind, synonyms, antonyms.

Only words with a counted sense are asked for, the commonest first, each by its first sense; WordNet
orders senses by how often they were met. Source: wndb(5WN), senseidx(5WN).
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field

from dougong.train.data.extract import plain
from dougong.train.data.recall import holds_only
from dougong.train.data.task import Family, Generator, Task, ask, reserved, reserved_form, says
from dougong.train.data.words import capitalized, with_article

COMMON = 900  # words whose meanings even the smallest model is told
FREQUENT = 7000
MIN_EXAMPLE_WORDS = 5  # shorter ones are mostly no sentences
PARTS = {"n": "noun", "v": "verb", "a": "adjective", "s": "adjective"}
PART_OF_KEY = {"1": "n", "2": "v", "3": "a", "5": "a"}  # the number in a sense key
OFFENSIVE = re.compile(
    r"offensive|slur|disparag|vulgar|obscen|ethnic|sexual|genital|copulat|excre|drug|murder|kill"
    r"|suicide|rape|nazi|slave|intercourse|prostitut|naked|negro",
    re.IGNORECASE,
)
ABSTRACT = frozenset({  # what nearly everything is, so that nothing is told by it
    "entity", "object", "whole", "abstraction", "matter", "act", "attribute", "state", "group",
    "relation", "event", "cognition", "content", "unit", "part", "thing", "artifact",
})  # fmt: skip
MEANING = ('What does "{k}" mean?', "What does {k} mean?", "Explain the word {k}.", "Define {k}.")
FORMS: dict[str, tuple[tuple[str, ...], str, float]] = {
    "meaning of a word": (MEANING, "{K} ({part}): {v}.", 34),
    "word of a meaning": (("Which word means: {v}?", "What is the word for this: {v}?"),
                          "{K}.", 12),
    "word in a sentence": (("Use the word {k} in a sentence.", "Write a sentence with {k}.",
                            'Give an example of "{k}".'), "{v}", 16),
    "synonym": (("What is another word for {k}?", "Give a synonym of {k}.",
                 "Which word means the same as {k}?"), "Another word for {k} is {v}.", 10),
    "antonym": (("What is the opposite of {k}?", "Give an antonym of {k}."),
                "The opposite of {k} is {v}.", 8),
    "what kind of thing": (("What kind of thing is {ak}?", "What is {ak}?"),
                           "{AK} is a kind of {v}.", 10),
}  # fmt: skip


@dataclass(frozen=True)
class Sense:
    """One set of synonyms: words, part of speech, meaning, examples; offsets of what it is a kind
    of and of its opposites."""

    words: tuple[str, ...]
    part: str
    meaning: str
    examples: tuple[str, ...]
    parents: tuple[str, ...]
    opposites: tuple[str, ...]


Row = tuple[str, str, str]
"""A word, what is told about it, its part of speech."""


@dataclass
class Dictionary:
    """What can be asked, by kind of question: rows of FORMS, and `kinds`, pairs of word and
    hypernym; `common`: the commonest nouns with their meanings."""

    rows: dict[str, list[Row]] = field(default_factory=dict)
    common: list[Row] = field(default_factory=list)

    def word(self, rng: random.Random) -> Task:
        """One of the commonest nouns explained."""
        word, meaning, _ = rng.choice(self.common)
        form = rng.choice((*MEANING, "What is {ak}?"))
        question = form.format(k=word, ak=with_article(word))
        return ask(question, f"{capitalized(word)}: {meaning}.")

    def family(self) -> Family:
        """All kinds of question about the frequent words."""
        kinds: dict[str, tuple[Generator, float]] = {
            kind: (self._asked(kind), share) for kind, (_, _, share) in FORMS.items()
        }
        return Family("dictionary", kinds | {"is it a kind of": (self._is_kind(), 10)})

    def _asked(self, kind: str) -> Generator:
        """A word must be taught to be known: kept for evaluation are ways to ask for it."""
        forms, answer, _ = FORMS[kind]

        def generate(rng: random.Random, *, held_out: bool = False) -> Task:
            while True:
                (word, told, part), form = rng.choice(self.rows[kind]), rng.choice(forms)
                if reserved_form("dictionary", (word, told), form, forms) == held_out:
                    break
            fields = {"k": word, "K": capitalized(word), "v": told, "part": PARTS[part]}
            fields |= {"ak": with_article(word), "AK": capitalized(with_article(word))}
            text = answer.format_map(fields)
            wanted = told if kind in ("synonym", "antonym", "what kind of thing") else word
            exact = kind == "meaning of a word"
            judge = says(text) if exact else holds_only(wanted, [])
            return ask(form.format_map(fields), text, judge=judge)

        return generate

    def _is_kind(self) -> Generator:
        """Is a cat an animal? Is a cat a building?"""

        above = {word: told.split(", ") for word, told, _ in self.rows.get("is it a kind of", [])}
        words = list(above)

        def generate(rng: random.Random, *, held_out: bool = False) -> Task:
            while True:
                word = rng.choice(words)
                right = rng.random() < 0.5
                other = rng.choice(above[word if right else rng.choice(words)])
                known = other != word and (other in above[word]) == right
                if known and reserved("kind", word, other) == held_out:
                    break
            subject, kind = with_article(word), with_article(other)
            answer = f"Yes, {subject} is {kind}." if right else f"No, {subject} is not {kind}."
            judge = holds_only("yes" if right else "no", ["no" if right else "yes"])
            return ask(f"Is {subject} {kind}?", answer, judge=judge)

        return generate


def read_wordnet(files: dict[str, str]) -> Dictionary:
    """The dictionary of the frequent words, from WordNet's own files by their names."""
    senses: dict[str, Sense] = {}
    for name in ("data.noun", "data.verb", "data.adj"):
        for line in files.get(name, "").splitlines():
            if not line.startswith(" "):  # the licence stands there
                key, sense = _read_sense(line)
                senses[key] = sense
    entries = [(word, senses[key]) for word, key in _frequent(files["index.sense"])
               if key in senses and _is_kind_reading(word, senses[key])]  # fmt: skip
    return _dictionary(entries[:FREQUENT], senses)


def _read_sense(line: str) -> tuple[str, Sense]:
    data, _, gloss = line.partition(" | ")
    fields = data.split()
    offset, part = fields[0], fields[2]
    count = int(fields[3], 16)
    words = tuple(word.split("(")[0].replace("_", " ") for word in fields[4 : 4 + 2 * count : 2])
    pointers, at = [], 5 + 2 * count
    for _ in range(int(fields[4 + 2 * count])):
        pointers.append((fields[at], fields[at + 2] + fields[at + 1]))
        at += 4
    meaning = plain(re.sub(r"\([^)]*\)", "", re.split(r'; "|;|:', gloss)[0]))
    examples = tuple(plain(text) for text in re.findall(r'"([^"]+)"', gloss))
    up = tuple(to for kind, to in pointers if kind == "@")
    against = tuple(to for kind, to in pointers if kind == "!")
    key = ("a" if part == "s" else part) + offset
    return key, Sense(words, part, meaning, examples, up, against)


def _frequent(index: str) -> list[tuple[str, str]]:
    """Words with the key of their first sense, the commonest first; a word is there once."""
    counts: dict[tuple[str, str], int] = {}
    for line in index.splitlines():
        key, offset, number, count = line.split()
        word, kind = key.split("%")
        if number == "1" and count != "0" and kind[0] in PART_OF_KEY:
            counts[word, PART_OF_KEY[kind[0]] + offset] = int(count)
    ordered = sorted(counts, key=lambda entry: (-counts[entry], entry))
    first: dict[str, str] = {}
    for word, key in ordered:
        first.setdefault(word, key)
    return list(first.items())


def _is_kind_reading(word: str, sense: Sense) -> bool:
    """Whether the word can be asked for: plain, and with a meaning of a sentence's length."""
    plain_word = word.isalpha() and word.isascii() and len(word) > 2
    text = f"{word} {sense.meaning}"
    return plain_word and 10 <= len(sense.meaning) <= 100 and not OFFENSIVE.search(text)


def _dictionary(entries: list[tuple[str, Sense]], senses: dict[str, Sense]) -> Dictionary:
    known = {word for word, _ in entries}
    rows: dict[str, list[Row]] = {kind: [] for kind in (*FORMS, "is it a kind of")}
    for word, sense in entries:
        part = sense.part
        rows["meaning of a word"].append((word, sense.meaning, part))
        rows["word of a meaning"].append((word, sense.meaning, part))
        for example in sense.examples:
            whole = len(example.split()) >= MIN_EXAMPLE_WORDS and not OFFENSIVE.search(example)
            if whole and re.search(rf"\b{word}\b", example):
                told = capitalized(example)
                rows["word in a sentence"].append((word, told if told[-1] in ".!?" else told + ".",
                                                   part))  # fmt: skip
        rows["synonym"] += [(word, other, part) for other in sense.words
                            if other != word and other in known]  # fmt: skip
        for offset in sense.opposites:
            other = senses[offset].words[0] if offset in senses else ""
            if other in known:
                rows["antonym"].append((word, other, part))
        above = [
            name for name in _ancestors(sense, senses) if name in known - ABSTRACT and name != word
        ]
        if part == "n" and above:
            rows["what kind of thing"].append((word, above[0], part))
            rows["is it a kind of"].append((word, ", ".join(above), part))
    common = [(word, sense.meaning, sense.part) for word, sense in entries if sense.part == "n"]
    return Dictionary(rows, common[:COMMON])


def _ancestors(sense: Sense, senses: dict[str, Sense]) -> list[str]:
    """First words of what this is a kind of, the nearest first."""
    found: list[str] = []
    while sense.parents and sense.parents[0] in senses and len(found) < 12:
        sense = senses[sense.parents[0]]
        found.append(sense.words[0])
    return found
