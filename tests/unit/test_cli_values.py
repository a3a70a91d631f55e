"""Values as people type them: what is read, and what is refused with the right form."""

from __future__ import annotations

import click
import pytest

from dougong.cli.values import (
    BYTES,
    TOKENS,
    Pairs,
    TokenCounts,
    read_limit,
    read_number,
    read_seconds,
    read_share,
    read_tokens,
)


@pytest.mark.parametrize(
    ("text", "count"),
    [("1", 1), ("4096", 4096), ("8k", 8192), ("256K", 262144), ("1M", 1048576), ("1.5k", 1536)],
)
def test_tokens_may_be_counted_in_k_and_m(text: str, count: int) -> None:
    assert TOKENS.convert(text, None, None) == count


@pytest.mark.parametrize("text", ["", "k", "0", "0k", "-1", "1.1", "1.0001k", "8 kk", "1G", "٣"])
def test_what_is_no_number_of_tokens_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="token"):
        TOKENS.convert(text, None, None)


@pytest.mark.parametrize(
    ("text", "count"),
    [("8GiB", 2**33), ("8GB", 8 * 10**9), ("1.5 MiB", 3 * 2**19), ("7b", 7), ("2kB", 2000)],
)
def test_sizes_have_decimal_and_binary_units(text: str, count: int) -> None:
    assert BYTES.convert(text, None, None) == count


@pytest.mark.parametrize("text", ["", "8", "GiB", "8G", "8 iB", "-1GB", "0GB", "0.1B", "8XB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match=r"size|byte"):
        BYTES.convert(text, None, None)


def test_several_numbers_of_tokens_stand_between_commas() -> None:
    assert TokenCounts().convert("512,8k, 1M", None, None) == [512, 8192, 1048576]
    with pytest.raises(click.BadParameter, match="''"):
        TokenCounts().convert("1,,2", None, None)


LOAD = Pairs(rate=(read_number, 1.0), prompt=(read_tokens, 8192), hit=(read_share, 0.0),
             pause=(read_seconds, 20.0), tpot=(read_limit, 0.0))  # fmt: skip


def test_pairs_keep_the_default_of_what_is_left_out() -> None:
    read = LOAD.convert("rate=2.5, prompt=4k,hit=30%,tpot=50ms", None, None)
    assert read == {"rate": 2.5, "prompt": 4096, "hit": 0.3, "pause": 20.0, "tpot": 0.05}
    assert LOAD.convert("hit=0.25,pause=0s", None, None)["hit"] == 0.25


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tpot=50", "a time with its unit, such as 50ms or 2s"),
        ("tpot=50us", "a time with its unit"),
        ("tpot=s", "a time with its unit"),
        ("tpot=0ms", "a time above 0"),
        ("pause=20", "a time with its unit"),
        ("rate=8ms", "a number of at least 0"),
        ("rate=-1", "a number of at least 0"),
        ("rate=inf", "a number of at least 0"),
        ("rate=nan", "a number of at least 0"),
        ("prompt=8.5", "a whole number of tokens"),
        ("hit=30", "a share such as 30% or 0.3"),
        ("speed=1s", "use rate=, prompt=, hit=, pause=, tpot="),
        ("rate", "use rate="),
    ],
)
def test_a_number_without_its_unit_or_with_anothers_is_refused(text: str, said: str) -> None:
    with pytest.raises(click.BadParameter, match=said):
        LOAD.convert(text, None, None)
