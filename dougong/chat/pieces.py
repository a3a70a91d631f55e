"""Prompts in pieces: which part of the text is markup, and which the caller's own words.

A user who types "<｜Assistant｜>" must not become the assistant. The official encoder does not
escape, and neither does the text rendered here, but each piece knows whether it is a special token
that the template put there. Only those become special ids; the same characters in a caller's text
are encoded as ordinary text (the rule of DeepSeek's own deepseek-recipe, too).
"""

import re
from dataclasses import dataclass
from typing import Final

from dougong.chat import special

# The special strings that V4's template is made of.
_MARKUP: Final = (
    special.BOS,
    special.EOS,
    special.USER,
    special.ASSISTANT,
    special.THINK,
    special.END_THINK,
    special.DSML,
    special.LATEST_REMINDER,
    special.EXTRACTED_URL,
    *special.TASKS.values(),
)
_SPLIT: Final = re.compile("(" + "|".join(map(re.escape, _MARKUP)) + ")")


@dataclass(frozen=True)
class Piece:
    """A stretch of a prompt: one special token, or text in which nothing is special."""

    text: str
    is_special: bool


class PromptWriter:
    """Collects a prompt; neighbouring ordinary text is joined, so that merges cross the seams."""

    def __init__(self) -> None:
        self._pieces: list[Piece] = []
        self._open: list[str] = []

    def markup(self, text: str) -> None:
        """Adds text of the template: special strings in it become special tokens."""
        # re.split with one group: the odd parts are the separators, here the special strings.
        for number, part in enumerate(_SPLIT.split(text)):
            if number % 2 == 0:
                self._open.append(part)
            else:
                self._close()
                self._pieces.append(Piece(part, is_special=True))

    def verbatim(self, text: str) -> None:
        """Adds a caller's text: nothing in it is special."""
        self._open.append(text)

    def pieces(self) -> list[Piece]:
        """What was written so far."""
        self._close()
        return list(self._pieces)

    def _close(self) -> None:
        text = "".join(self._open)
        self._open.clear()
        if text:
            self._pieces.append(Piece(text, is_special=False))
