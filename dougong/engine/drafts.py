"""Guesses at a request's next tokens, and how many of them pay (no torch).

A draft is only ever accepted where it equals the token that would have been drawn, so nothing here
can change an answer: a bad guess costs time, and this file's second half sees to it that it is
little. Which drafts to verify is decided as in DSpark's scheduler (2026): the likeliest first, for
as long as they raise the tokens a second that the measured costs of steps promise.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

LONGEST_MATCH, SHORTEST_MATCH = 4, 2  # tokens that must recur before what followed is proposed
OCCURRENCES = 16  # of the shortest match: how many are looked at, from the last one back
LOOKUP_TOKENS = 65_536  # what came earlier is not searched: bounds the memory of a request
MOST_DRAFTED = 64  # drafts in one step
MARGIN = 1.03  # drafting must promise this much more than none


class PromptLookup:
    """Proposes what followed the last time that the same few tokens occurred (Saxena 2023)."""

    def __init__(self) -> None:
        self._first: int | None = None  # ids before are not searched
        self._last: dict[tuple[int, int], int] = {}  # two tokens -> where they ended last
        self._before = array("q")  # for each end: where the same two ended before, -1: nowhere

    def propose(self, ids: Sequence[int], most: int) -> list[int]:
        """Up to `most` tokens to come after `ids`, which only ever grows between calls."""
        if self._first is None:
            self._first = max(len(ids) - LOOKUP_TOKENS, 0)
        for end in range(self._first + len(self._before), len(ids) + 1):
            known = -1
            if end - self._first >= SHORTEST_MATCH:
                pair = ids[end - 2], ids[end - 1]
                known = self._last.get(pair, -1)
                self._last[pair] = end
            self._before.append(known)
        start = self._find(ids)
        if start < 0:
            return []
        known_ids = list(ids[start : start + most])
        return [known_ids[i % len(known_ids)] for i in range(most)]  # a cycle goes on and on

    def _find(self, ids: Sequence[int]) -> int:
        """Where the longest match ends, the last of several; -1: none."""
        assert self._first is not None
        best, longest = -1, 0
        end = len(ids)
        for _ in range(OCCURRENCES):
            end = self._before[end - self._first]
            if end < 0:
                break
            size = SHORTEST_MATCH
            while (
                size < LONGEST_MATCH
                and end - size > self._first
                and ids[end - size - 1] == ids[-size - 1]
            ):
                size += 1
            if size > longest:
                best, longest = end, size
            if longest == LONGEST_MATCH:
                break
        return best


@dataclass
class Odds:
    """How likely a guess is right, judged by those before; old ones count ever less."""

    right: float = 0.0
    tried: float = 0.0

    def note(self, right: int, wrong: int) -> None:
        """Books guesses whose truth is known now."""
        self.right = 0.9 * self.right + right
        self.tried = 0.9 * self.tried + right + wrong

    def forget(self) -> None:
        """Called when nothing was tried: in time it is worth another trial."""
        self.right, self.tried = 0.995 * self.right, 0.995 * self.tried

    def chance(self, prior: float = 0.5) -> float:
        """Below 1; without any guesses it is `prior`."""
        return min((self.right + 2 * prior) / (self.tried + 2), 0.99)


@dataclass
class StepCosts:
    """What a step of so many tokens takes, from the steps seen.

    The least of the latest few counts: whatever else the machine does only ever adds to a time.
    Sizes not seen (lately) lie on a line between their neighbours, and beyond the largest cost as
    much as that one: trying is how they become known.
    """

    samples: dict[int, deque[tuple[int, float]]] = field(default_factory=dict)
    steps: int = 0
    lifetime: int = 1000  # steps until a size has to be measured again

    def note(self, tokens: int, seconds: float) -> None:
        """Books a step."""
        self.steps += 1
        self.samples.setdefault(tokens, deque(maxlen=4)).append((self.steps, seconds))

    def known(self) -> dict[int, float]:
        """Tokens -> seconds, of sizes seen at least twice, once of late; ascending."""
        oldest = self.steps - self.lifetime
        return {
            tokens: max(min(seconds for _, seconds in seen), 1e-9)
            for tokens, seen in sorted(self.samples.items())
            if len(seen) > 1 and seen[-1][0] >= oldest
        }

    @staticmethod
    def of(tokens: int, known: dict[int, float]) -> float:
        """Seconds of a step of so many tokens."""
        below = max((n for n in known if n <= tokens), default=None)
        above = min((n for n in known if n >= tokens), default=None)
        if below is None or above is None:
            return known[above if below is None else below]  # type: ignore[index]
        if below == above:
            return known[below]
        part = (tokens - below) / (above - below)
        return known[below] + part * (known[above] - known[below])


def worthwhile(
    chances: Sequence[Sequence[float]], writers: int, known: dict[int, float], extra_s: float = 0.0
) -> tuple[list[int], float]:
    """How many drafts of each request to verify, and the tokens a second that this promises.

    Args:
        chances: of each request's drafts, that it and all before it are right.
        writers: requests that get a token for certain.
        known: from `StepCosts`; at least one size.
        extra_s: what making the drafts takes; nothing is left out to save it.
    """
    ranked = sorted(
        ((chance, i) for i, row in enumerate(chances) for chance in row), key=lambda item: -item[0]
    )[:MOST_DRAFTED]
    best, most = writers / (StepCosts.of(writers, known) + extra_s), 0
    plain, tokens = best, float(writers)
    for number, (chance, _) in enumerate(ranked, start=1):
        tokens += chance
        rate = tokens / (StepCosts.of(writers + number, known) + extra_s)
        if rate > best and rate > plain * MARGIN:
            best, most = rate, number
    counts = [0] * len(chances)
    for _, i in ranked[:most]:
        counts[i] += 1
    return counts, best
