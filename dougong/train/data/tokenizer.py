"""The run's own tokenizer: a byte-level BPE trained on the very mix that the model will see."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from pathlib import Path

from dougong.chat.tokenizer import Tokenizer, load_tokenizer
from dougong.chat.train_bpe import save_tokenizer, train_bpe
from dougong.train.data.corpus import Corpus
from dougong.train.data.encode import pieces_of
from dougong.train.data.mixture import families_of
from dougong.train.data.task import Sample, Text

PASSAGE_TOKENS = 512  # of running text
CHARACTERS_PER_ID = 4000  # read for each id of the vocabulary; more changes hardly a merge


def text_of(sample: Sample) -> str:
    """The ordinary text of a sample; special tokens are no part of it."""
    if isinstance(sample, Text):
        return sample.text
    return "\n".join(piece.text for piece in pieces_of(sample) if not piece.is_special)


def training_texts(
    corpus: Corpus,
    shares: Mapping[str, float],
    seed: int,
    characters: int,
) -> Iterator[str]:
    """The texts that merges are counted on: each family by its share of about `characters`."""
    families = families_of(corpus, PASSAGE_TOKENS)
    for name, share in shares.items():
        rng = random.Random(f"{seed}/tokenizer/{name}")
        left = share / sum(shares.values()) * characters
        while left > 0:
            text = text_of(families[name](rng))
            left -= len(text)
            yield text


def run_tokenizer(
    folder: Path,
    given: str,
    vocab_size: int,
    corpus: Corpus,
    shares: Mapping[str, float],
    seed: int,
) -> tuple[Tokenizer, Path]:
    """The tokenizer and its folder: `given`, or the run's own, trained once in `folder`.

    Args:    shares: family -> its share of the run's tokens.
    """
    own = Path(given).expanduser() if given else folder / "tokenizer"
    if not given and not (own / "tokenizer.json").is_file():
        texts = training_texts(corpus, shares, seed, CHARACTERS_PER_ID * vocab_size)
        save_tokenizer(train_bpe(texts, vocab_size), own)
    return load_tokenizer(own), own
