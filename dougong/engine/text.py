"""From drawn ids to text that can be shown: whole characters, and nothing of a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from dougong.chat.tokenizer import Tokenizer
from dougong.errors import InputError

MAX_STOPS, MAX_STOP_CHARACTERS = 16, 256


class TextStream:
    """The text of one answer as it grows; ends at the first stop string, which is not shown.

    Text that may yet turn out to be the beginning of a stop string is held back.
    Raises InputError for empty, too many or too long stop strings.
    """

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = ()) -> None:
        if len(stops) > MAX_STOPS or any(not 1 <= len(s) <= MAX_STOP_CHARACTERS for s in stops):
            raise InputError(
                f"stop: at most {MAX_STOPS} strings of 1 to {MAX_STOP_CHARACTERS} characters each."
            )
        self._decoder = tokenizer.stream_decoder()
        self._stops = tuple(stops)
        self._held = ""
        self.text = ""
        self.stopped_by: str | None = None

    def push(self, token: int, *, may_stop: bool = True) -> str:
        """What can be shown after this token; '' once a stop string was found.

        `may_stop`: else a stop string that this token completes is text like any other.
        """
        return self._show(self._decoder.push(token), may_stop=may_stop)

    def finish(self, *, whole: bool = False) -> str:
        """What is left to show when the answer has ended.

        `whole`: half of a character is left out; else U+FFFD stands for it.
        """
        return self._show("" if whole else self._decoder.finish(), last=True)

    def _show(self, new: str, *, may_stop: bool = True, last: bool = False) -> str:
        if not self._stops:
            self.text += new
            return new
        if self.stopped_by is not None:
            return ""
        known = len(self._held)
        self._held += new
        ends = [(self._held.find(s, max(known - len(s) + 1, 0)), s) for s in self._stops]
        found = [(at, stop) for at, stop in ends if at >= 0]
        if found and may_stop:
            at, self.stopped_by = min(found)
            shown, self._held = self._held[:at], ""
        else:
            keep = 0 if last else self._longest_beginning()
            shown = self._held[: len(self._held) - keep]
            self._held = self._held[len(shown) :]
        self.text += shown
        return shown

    def _longest_beginning(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        longest = 0
        for stop in self._stops:
            for size in range(min(len(stop) - 1, len(self._held)), longest, -1):
                if self._held.endswith(stop[:size]):
                    longest = size
                    break
        return longest
