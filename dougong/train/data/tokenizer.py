"""The run's own tokenizer: a byte-level BPE trained on the very mix that the model will see."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from dougong.chat.tokenizer import Tokenizer, load_tokenizer
from dougong.chat.train_bpe import save_tokenizer, train_bpe
from dougong.train.data.corpus import Corpus
from dougong.train.data.mixture import OWN_FAMILIES
from dougong.train.data.sample import Sample

SAMPLES_PER_FAMILY = 6000
NUM_PASSAGES = 2500  # keeps the long sentences of speeches from taking most of the merges


def texts_of(sample: Sample) -> Iterator[str]:
    """All texts of a sample, without markup."""
    yield sample.text
    for turn in sample.turns:
        yield from (turn.question, turn.thinking or "", turn.answer)


def training_texts(corpus: Corpus, seed: int, samples: int = SAMPLES_PER_FAMILY) -> Iterator[str]:
    """The texts that merges are counted on: `samples` of each family, real text by passages."""
    for name, generator in OWN_FAMILIES.items():
        rng = random.Random(f"{seed}/tokenizer/{name}")
        for _ in range(samples):
            yield from texts_of(generator(rng))
    rng = random.Random(f"{seed}/tokenizer/prose")
    yield from rng.sample(corpus.prose, min(NUM_PASSAGES, len(corpus.prose)))
    yield from corpus.facts
    yield from (f"{word} {meaning}" for word, meaning in corpus.words)


def run_tokenizer(
    folder: Path, given: str, vocab_size: int, corpus: Corpus, seed: int
) -> tuple[Tokenizer, Path]:
    """The tokenizer and its folder: `given`, or the run's own, trained once in `folder`."""
    own = Path(given).expanduser() if given else folder / "tokenizer"
    if not given and not (own / "tokenizer.json").is_file():
        save_tokenizer(train_bpe(training_texts(corpus, seed), vocab_size), own)
    return load_tokenizer(own), own
