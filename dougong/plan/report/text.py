"""Words in two languages: English and Traditional Chinese, always both or an error.

Authored prose lives in content/*.toml (one table per string, keys `en` and `zh`); the phrases of
the cited data files are translated by content/vocabulary.csv. Prose may hold `{name}` places that
the exhibit fills with cells, and `code` between backticks.
"""

from __future__ import annotations

import csv
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

from dougong.errors import InputError

Language = Literal["en", "zh-Hant"]
LANGUAGES: tuple[Language, ...] = ("en", "zh-Hant")
PLACE = re.compile(r"\{([a-z][a-z0-9_]*)\}")


@dataclass(frozen=True)
class Text:
    """One string in both languages."""

    en: str
    zh: str

    def __post_init__(self) -> None:
        if bool(self.en.strip()) != bool(self.zh.strip()):
            raise InputError(f"a report string lacks a language: en {self.en!r}, zh {self.zh!r}")
        if set(PLACE.findall(self.en)) != set(PLACE.findall(self.zh)):
            raise InputError(f"the languages name different figures: {self.en!r}, {self.zh!r}")

    def to(self, language: Language) -> str:
        """The string in one language."""
        return self.en if language == "en" else self.zh


def same(name: str) -> Text:
    """A proper name, unit or formula that is written alike in both languages."""
    return Text(name, name)


def joined(*parts: Text, by: str = " ") -> Text:
    """Several texts as one."""
    return Text(by.join(p.en for p in parts), by.join(p.zh for p in parts))


def _folder_text(name: str) -> str:
    return files("dougong.plan.report").joinpath("content", name).read_text(encoding="utf-8")


@cache
def content(name: str) -> Mapping[str, Text]:
    """The authored strings of content/NAME.toml; line breaks inside a string become spaces.

    Raises: InputError if a string lacks a language or names other figures in the other one.
    """
    tables = tomllib.loads(_folder_text(f"{name}.toml"))
    return {key: Text(_flow(pair["en"]), _flow(pair["zh"], "")) for key, pair in tables.items()}


def _flow(text: str, between: str = " ") -> str:
    """Joins wrapped lines: with a space in English, without in Chinese unless Latin meets Latin."""
    if "\n" not in text:
        return text
    lines = [line.strip() for line in text.strip().splitlines()]
    flowed = lines[0]
    for line in lines[1:]:
        latin = flowed[-1:].isascii() and line[:1].isascii()
        flowed += (between or (" " if latin else "")) + line
    return flowed


@cache
def _vocabulary() -> Mapping[str, str]:
    rows = csv.DictReader(_folder_text("vocabulary.csv").splitlines())
    return {row["en"]: row["zh"] for row in rows}


def phrase(english: str) -> Text:
    """A phrase of a cited data file, with its translation from content/vocabulary.csv.

    A phrase that is missing there and holds no lower-case English word is a name: same in both.
    Raises: InputError if the translation is missing.
    """
    known = _vocabulary().get(english)
    if known is not None:
        return Text(english, known)
    if re.search(r"\b[a-z]{3,}\b", english):
        raise InputError(f"content/vocabulary.csv has no translation of {english!r}; add a row")
    return same(english)
