"""The run's own tokenizer: the same mix gives the same file, in any process."""

import hashlib
import os
import subprocess
import sys

import pytest

from dougong.chat import special
from dougong.chat.tokenizer import Tokenizer
from dougong.chat.train_bpe import train_bpe
from dougong.train.data.corpus import Corpus
from dougong.train.data.tokenizer import training_texts

TRAIN = """
from dougong.chat.train_bpe import train_bpe
from dougong.train.data.corpus import Corpus
from dougong.train.data.tokenizer import training_texts
texts = training_texts(Corpus(), {"stories": 2, "tools": 1, "arithmetic": 1}, 1, 60_000)
print(train_bpe(texts, 700).to_str())
"""


@pytest.mark.slow
def test_same_mix_gives_the_same_bytes_whatever_the_hash_seed() -> None:
    found = set()
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", TRAIN],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        )
        assert len(done.stdout) > 5_000
        found.add(hashlib.sha256(done.stdout).hexdigest())
    assert len(found) == 1


def test_families_are_read_by_their_share() -> None:
    texts = list(training_texts(Corpus(), {"tales": 3, "copying": 1}, 1, 40_000))
    tales = sum(
        len(text) for text in texts if text.endswith((".", "!", "?", '"')) and len(text) > 250
    )
    # one more sample than the share at the most
    assert 30_000 <= tales < 31_500
    assert 40_000 <= sum(map(len, texts)) < 42_000


def test_tool_markup_and_single_digits() -> None:
    texts = training_texts(Corpus(), {"tools": 1, "arithmetic": 1}, 1, 60_000)
    tokenizer = Tokenizer(train_bpe(texts, 700))
    assert len(tokenizer.encode("1234", special=False)) == 4
    assert tokenizer.encode(special.DSML) == [tokenizer.special_id(special.DSML)]
    assert tokenizer.num_ids == 700
