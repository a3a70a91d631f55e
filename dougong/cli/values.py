"""Values as people write them: 8k or 1M tokens, 8GiB, 50ms, 30%."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from decimal import Decimal

import click

UNITS = {"": 1, "k": 1024, "m": 1024**2}
BYTE_UNITS = {"b": 1} | {
    unit: base**power
    for power, letter in enumerate("kmgt", 1)
    for base, unit in ((1000, f"{letter}b"), (1024, f"{letter}ib"))
}
_BYTES = re.compile(r"(\d{1,12}(?:\.\d{1,9})?)\s?([kmgt]?i?b)", re.IGNORECASE)
_TOKENS = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)([km]?)", re.IGNORECASE)
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]*)?(?:e[+-]?[0-9]{1,2})?|\.[0-9]+", re.IGNORECASE)


def read_tokens(text: str) -> int:
    """`4096`, `8k` or `1M` tokens; k is 1,024 and M 1,048,576. ValueError says what is wanted."""
    found = _TOKENS.fullmatch(text.strip())
    count = Decimal(found[1]) * UNITS[found[2].lower()] if found else Decimal(-1)
    if count < 0 or count != int(count):
        raise ValueError("a whole number of tokens, such as 4096, 8k or 1M")
    return int(count)


def read_bytes(text: str) -> int:
    """`8GiB` or `500 MB`: GB is a billion bytes, GiB 2**30. The unit must be there."""
    found = _BYTES.fullmatch(text.strip())
    if not found or found[2].lower() not in BYTE_UNITS:
        raise ValueError("a size with its unit, such as 8GiB or 500MB")
    return int(Decimal(found[1]) * BYTE_UNITS[found[2].lower()])


def read_number(text: str) -> float:
    """A number of at least 0."""
    if not _NUMBER.fullmatch(text) or not math.isfinite(float(text)):
        raise ValueError("a number of at least 0")
    return float(text)


def read_seconds(text: str) -> float:
    """`50ms` or `2s` in seconds. The unit must be there: 50 alone would mean one thing to a person
    who thinks in milliseconds and another to a program.
    """
    wanted = "a time with its unit, such as 50ms or 2s"
    for unit, seconds in (("ms", 1e-3), ("s", 1.0)):
        if text.endswith(unit):
            return _read(text.removesuffix(unit).strip(), wanted) * seconds
    raise ValueError(wanted)


def read_limit(text: str) -> float:
    """A time above 0 in seconds."""
    if not (limit_s := read_seconds(text)):
        raise ValueError("a time above 0")
    return limit_s


def read_share(text: str) -> float:
    """`30%` or `0.3`: at most 1."""
    wanted = "a share such as 30% or 0.3"
    share = _read(text.removesuffix("%").strip(), wanted) / (100 if text.endswith("%") else 1)
    if share > 1:
        raise ValueError(wanted)
    return share


def _read(text: str, wanted: str) -> float:
    try:
        return read_number(text)
    except ValueError:
        raise ValueError(wanted) from None


class TokenCount(click.ParamType[int]):
    """A number of tokens from 1 on: 4096, 8k or 1M."""

    name = "tokens"

    def convert(
        self, value: str | int, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """The number; a usage error if it is none."""
        try:
            count = read_tokens(str(value))
        except ValueError as wanted:
            self.fail(f"{value!r}: write {wanted}.", param, ctx)
        if count < 1:
            self.fail(f"{value!r}: at least one token is wanted.", param, ctx)
        return count


class ByteCount(click.ParamType[int]):
    """A size from one byte on: 8GiB, 500MB."""

    name = "size"

    def convert(
        self, value: str | int, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """The bytes; a usage error if it is no size."""
        try:
            count = value if isinstance(value, int) else read_bytes(value)
        except ValueError as wanted:
            self.fail(f"{value!r}: write {wanted}.", param, ctx)
        if count < 1:
            self.fail(f"{value!r}: at least one byte is wanted.", param, ctx)
        return count


class TokenCounts(click.ParamType[list[int]]):
    """Numbers of tokens with commas between: 1,7,128 or 512,8k."""

    name = "tokens,..."

    def convert(
        self, value: str | list[int], param: click.Parameter | None, ctx: click.Context | None
    ) -> list[int]:
        """The numbers in the order given; a usage error if one is none."""
        words = value.split(",") if isinstance(value, str) else value
        return [TOKENS.convert(word, param, ctx) for word in words]


class Pairs(click.ParamType[dict[str, float]]):
    """`a=1s,b=50ms` as numbers. For each key a reader of its values, and what it is when left out.

    A time is in seconds, tokens are whole numbers, a share is at most 1.
    """

    name = "pairs"

    def __init__(self, **known: tuple[Callable[[str], float], float]) -> None:
        self.known = known

    def convert(
        self, value: str | dict[str, float], param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> dict[str, float]:  # fmt: skip
        """Every key's number; a usage error for unknown keys, other units and bad numbers."""
        if isinstance(value, dict):
            return value
        values = {key: default for key, (_, default) in self.known.items()}
        for word in filter(None, (part.strip() for part in value.split(","))):
            key, equals, text = (piece.strip() for piece in word.partition("="))
            if not equals or key not in self.known:
                self.fail(f"{word!r}: use {', '.join(f'{k}=' for k in self.known)}", param, ctx)
            try:
                values[key] = self.known[key][0](text)
            except ValueError as wanted:
                self.fail(f"{word!r}: write {wanted}.", param, ctx)
        return values


TOKENS = TokenCount()
BYTES = ByteCount()
