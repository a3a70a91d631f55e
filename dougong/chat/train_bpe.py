"""Training of a small byte-level BPE tokenizer that V4's prompt encoder can use unchanged.

It differs from V4's tokenizer in two ways only: the merges come from the given texts, and digits
are split one by one instead of in groups of three (small models learn arithmetic better so).

Ids: 0-2 BOS, EOS, PAD; 3-258 the bytes; then merges; V4's other special strings end the vocabulary.
"""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from dougong.chat import special
from dougong.errors import InputError

NUM_BYTES = 256

# V4's split rules, from its tokenizer.json; its first rule is `\p{N}{1,3}` there.
_DIGIT = r"\p{N}"
_CJK = "[一-龥\u3040-ゟ゠-ヿ]+"
_WORDS = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"""
    "|[^\r\n" + r"\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[" + "\r\n]*"
    r"|\s*[" + "\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def train_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Trains a tokenizer of exactly `vocab_size` ids; the same texts always give the same one.

    Special strings inside the texts are cut out before counting: no merge ever contains one.

    Args:    texts: any strings, read once. vocab_size: ids in total, specials and bytes included.
    Raises:  InputError if `vocab_size` leaves no room for a merge, or the texts hold too few
             pairs (each seen at least twice) to fill it.
    Cost:    about 25 s for 37 MB of text at 8,192 ids on two cores.
    """
    num_merged = vocab_size - len(special.TRAILING)
    smallest = len(special.LEADING) + NUM_BYTES + len(special.TRAILING) + 1
    if vocab_size < smallest:
        raise InputError(
            f"vocab_size {vocab_size} is too small: the special strings, the {NUM_BYTES} bytes and"
            f" one merge need at least {smallest} ids."
        )
    tokenizer = _untrained()
    trainer = trainers.BpeTrainer(
        vocab_size=num_merged,
        min_frequency=2,
        special_tokens=[AddedToken(text, normalized=False) for text in special.LEADING],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_without_specials(texts), trainer)
    found = tokenizer.get_vocab_size()
    if found != num_merged:
        raise InputError(
            f"the training texts give only {found + len(special.TRAILING)} of the {vocab_size} ids"
            " asked for: give more text or a smaller vocab_size."
        )
    # special=False as in V4: skipping special tokens in a decode must keep think and DSML tags.
    tokenizer.add_tokens([AddedToken(text, special=False) for text in special.TRAILING])
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path, model_max_length: int = 1 << 20) -> None:
    """Writes tokenizer.json and tokenizer_config.json, for `load_tokenizer` and transformers.

    Args:    model_max_length: the longest input in tokens that transformers accepts in silence.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": False,
        "add_eos_token": False,
        "bos_token": special.BOS,
        "eos_token": special.EOS,
        "pad_token": special.PAD,
        "clean_up_tokenization_spaces": False,
        "model_max_length": model_max_length,
    }
    text = json.dumps(config, ensure_ascii=False, indent=2)
    (folder / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")


def _untrained() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    rules = [pre_tokenizers.Split(Regex(rule), "isolated") for rule in (_DIGIT, _CJK, _WORDS)]
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*rules, to_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _without_specials(texts: Iterable[str]) -> Iterator[str]:
    strings = sorted(special.LEADING + special.TRAILING, key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, strings)))
    for text in texts:
        yield from filter(None, pattern.split(text))
