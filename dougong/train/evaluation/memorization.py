"""Does it recite? The longest exact run of words that what it writes shares with training texts.

Compared are running texts that it writes from nothing, and continuations of openings of training
passages, which invite reciting. Generated training texts are left out: they are templates by
design, and nobody's property.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from dougong.model.sampling import SamplingParams
from dougong.train.data.corpus import Corpus, load_corpus
from dougong.train.data.sources import DEFAULT_SOURCES, SOURCES, Source, is_here
from dougong.train.evaluation.answering import Question
from dougong.train.evaluation.subject import LeftOutError, Subject

DRAWN, QUICK_DRAWN = 48, 8  # texts of each sort
TOKENS = 128
OPENING_TOKENS = 24
RUN = 4  # words; shorter agreements are not looked for


def memorization_suite(subject: Subject) -> dict[str, Any]:
    """Longest agreements of drawn texts (temperature 1) with the fetched training texts.

    Keys: texts (of each sort), sources (compared with), sorts: for "from nothing" and "continued",
    longest_words, longest_text (the run itself) and mean_words (the mean over texts of each one's
    longest run).
    """
    names = DEFAULT_SOURCES if subject.quick else SOURCES  # the latter take half a minute to read
    here = [name for name in names if is_trained_on(SOURCES[name], subject.folder)]
    if not here:
        raise LeftOutError(
            "the memorization suite compares with the texts that training reads, and none is in "
            f"{subject.folder}: `dougong train` fetches them."
        )
    subject.say("reading the training texts", 0, 1)
    corpus = load_corpus(subject.folder, here)
    count = QUICK_DRAWN if subject.quick else DRAWN
    rng, tokenizer = subject.rng("memorization"), subject.tokenizer
    openings = [
        tokenizer.encode(passage, special=False)[:OPENING_TOKENS]
        for passage in (opening_of(rng, corpus) for _ in range(count))
    ]
    nothing: list[list[int]] = [[] for _ in range(count)]
    texts = _drawn(subject, nothing) + _drawn(subject, openings)
    runs = longest_runs(texts, corpus.training_texts())
    sorts = {"from nothing": runs[:count], "continued": runs[count:]}
    return {"texts": count, "sources": here, "sorts": {n: _figures(s) for n, s in sorts.items()}}


def is_trained_on(source: Source, folder: Path) -> bool:
    """Whether training reads this source, and it is here."""
    return source.use != "evaluation" and is_here(source, folder)


def opening_of(rng: random.Random, corpus: Corpus) -> str:
    """The beginning of a passage of running text, of any shelf."""
    return corpus.passage(rng, rng.choice(sorted(corpus.shelves)), 200).text


def _figures(runs: list[str]) -> dict[str, Any]:
    words = [len(run.split()) for run in runs]
    return {
        "longest_words": max(words),
        "longest_text": max(runs, key=lambda run: len(run.split())),
        "mean_words": sum(words) / len(words),
    }


def _drawn(subject: Subject, starts: Sequence[list[int]]) -> list[str]:
    tokenizer = subject.tokenizer
    questions = [
        Question(
            ids=[tokenizer.bos_id, *start],
            max_tokens=TOKENS,
            params=SamplingParams(seed=1000 * subject.seed + i),
        )
        for i, start in enumerate(starts)
    ]
    return [tokenizer.decode(reply.ids) for reply in subject.answers("drawn texts", questions)]


def words_of(text: str) -> list[str]:
    """Lower-case words, punctuation left out."""
    return re.findall(r"\w+(?:'\w+)?", text.lower())


def longest_runs(texts: Sequence[str], passages: Iterable[str]) -> list[str]:
    """For each text its longest run of words that stands in some passage; "" if below RUN.

    The passages are read once; their length sets the time.
    """
    written = [words_of(text) for text in texts]
    places: dict[tuple[str, ...], list[tuple[int, int]]] = {}
    for i, words in enumerate(written):
        for at, run in _runs(words):
            places.setdefault(run, []).append((i, at))
    best = [(0, 0)] * len(written)  # of each text: length and place of its longest run
    for passage in passages:
        read = words_of(passage)
        for there, run in _runs(read):
            for i, here in places.get(run, ()):
                length = RUN
                words = written[i]
                while (
                    here + length < len(words)
                    and there + length < len(read)
                    and words[here + length] == read[there + length]
                ):
                    length += 1
                best[i] = max(best[i], (length, here))
    return [" ".join(written[i][at : at + length]) for i, (length, at) in enumerate(best)]


def _runs(words: Sequence[str]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Every run of RUN words with its place."""
    return enumerate(zip(*(words[i:] for i in range(RUN)), strict=False))
