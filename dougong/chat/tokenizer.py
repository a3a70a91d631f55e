"""A checkpoint's own tokenizer: text <-> ids, and text out of a stream of ids.

Byte-level BPE read from tokenizer.json by the `tokenizers` library. Ids of special tokens are
looked up by their strings, never assumed.
"""

import codecs
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import tokenizers

from dougong.chat import special
from dougong.config_json import read_json_object
from dougong.errors import CheckpointError, InputError

_MAX_CONFIG_BYTES = 1 << 20
# DeepSeek-V4's file has 6.4 MB.
_MAX_TOKENIZER_BYTES = 1 << 28


def load_tokenizer(folder: str | Path) -> "Tokenizer":
    """The tokenizer of a checkpoint folder.

    Raises:  CheckpointError if tokenizer.json is missing or malformed, is not byte-level, lacks
             BOS or EOS, or has ids that the `vocab_size` of the folder's config.json cannot hold.
    """
    path = Path(folder) / "tokenizer.json"
    if not path.is_file():
        raise CheckpointError(
            f"{path} does not exist: a checkpoint folder needs its tokenizer to work with text."
        )
    if path.stat().st_size > _MAX_TOKENIZER_BYTES:
        raise CheckpointError(f"{path} is larger than {_MAX_TOKENIZER_BYTES:,} bytes.")
    try:
        inner = tokenizers.Tokenizer.from_file(str(path))
    except Exception as problem:  # the library raises nothing narrower
        raise CheckpointError(f"{path} is not a tokenizer that can be read: {problem}.") from None
    tokenizer = Tokenizer(inner, str(path))
    config = path.with_name("config.json")
    if config.is_file():
        vocab_size = read_json_object(config, _MAX_CONFIG_BYTES, CheckpointError).get("vocab_size")
        if isinstance(vocab_size, int) and tokenizer.num_ids > vocab_size:
            raise CheckpointError(
                f"{path} has ids up to {tokenizer.num_ids - 1}, but {config} has a vocab_size of"
                f" {vocab_size}: the two files do not belong together."
            )
    return tokenizer


class Tokenizer:
    """Text to ids and back; nothing is added, cut or padded."""

    def __init__(self, inner: tokenizers.Tokenizer, name: str = "tokenizer") -> None:
        """Wraps a byte-level tokenizer; `name` is what errors call it.

        Raises:  CheckpointError if it is not byte-level or lacks BOS or EOS.
        """
        if not isinstance(inner.decoder, tokenizers.decoders.ByteLevel):
            raise CheckpointError(f"{name} is not byte-level: its decoder must be ByteLevel.")
        # Files may carry a training run's limits; they would cut prompts in silence.
        inner.no_truncation()
        inner.no_padding()
        self.name = name
        self._inner = inner
        # The same model without added tokens: no text can become a special id.
        self._plain = tokenizers.Tokenizer(inner.model)
        self._plain.normalizer = inner.normalizer
        self._plain.pre_tokenizer = inner.pre_tokenizer
        self.num_ids = max(inner.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        """One more than the largest id."""
        self.bos_id = self.special_id(special.BOS)
        self.eos_id = self.special_id(special.EOS)

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Ids of a text; with `special=False` special strings in it are ordinary text.

        Raises:  InputError if the text holds half of a surrogate pair, which no encoding has.
        """
        try:
            text.encode()
        except UnicodeEncodeError as problem:
            raise InputError(
                f"The text has half of a surrogate pair at character {problem.start}: it is not"
                " valid Unicode."
            ) from None
        inner = self._inner if special else self._plain
        return list(inner.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, special strings included; bytes that are not UTF-8 become U+FFFD.

        Raises:  InputError if an id is not in the vocabulary.
        """
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that one id stands for; not always whole characters.

        Raises:  InputError if the id is not in the vocabulary.
        """
        token = self._inner.id_to_token(token_id) if 0 <= token_id < self.num_ids else None
        if token is None:
            raise InputError(f"Id {token_id} is not in {self.name}, which has {self.num_ids} ids.")
        try:
            return bytes(map(_byte_of_character().__getitem__, token))
        except KeyError:  # an added token is written as it is
            return token.encode()

    def special_id(self, text: str) -> int:
        """The id of a special string.

        Raises:  CheckpointError if the tokenizer has none.
        """
        token_id = self._inner.token_to_id(text)
        if token_id is None:
            raise CheckpointError(
                f"{self.name} has no special token {text!r}, which DeepSeek-V4's prompts need."
            )
        return token_id

    def stream_decoder(self) -> "StreamDecoder":
        """A decoder for ids that arrive one by one."""
        return StreamDecoder(self)


class StreamDecoder:
    """Turns ids into text as they arrive; the parts joined are exactly `Tokenizer.decode`.

    A character whose bytes are spread over several ids is held back until it is whole.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        """The text that this id completes; may be empty."""
        return self._utf8.decode(self._tokenizer.token_bytes(token_id))

    def finish(self) -> str:
        """What is left of an incomplete character: U+FFFD, or nothing."""
        return self._utf8.decode(b"", final=True)


@cache
def _byte_of_character() -> dict[str, int]:
    """Byte-level BPE writes each byte as one visible character: printable Latin-1 stands for
    itself, the other bytes follow from U+0100 on. Source: GPT-2's encoder (2019)."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(0x100) if byte not in visible]
    table = {chr(byte): byte for byte in visible}
    table.update({chr(0x100 + number): byte for number, byte in enumerate(hidden)})
    return table
