"""Drafts: prompt lookup against a search by hand, and the pace that turns drafting off."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from dougong.engine.drafts import LONGEST_MATCH, SHORTEST_MATCH, Pace, PromptLookup


def searched(ids: list[int], most: int) -> list[int]:
    """The definition, the slow way."""
    for size in range(min(LONGEST_MATCH, len(ids)), SHORTEST_MATCH - 1, -1):
        for end in range(len(ids) - 1, size - 1, -1):
            if ids[end - size : end] == ids[len(ids) - size :]:
                known = ids[end:]
                return [known[i % len(known)] for i in range(most)]
    return []


@given(st.lists(st.integers(0, 3), max_size=60), st.integers(1, 8), st.integers(0, 2**32))
def test_lookup_finds_the_latest_recurrence_however_the_ids_arrived(
    ids: list[int], most: int, seed: int
) -> None:
    lookup, rng, length = PromptLookup(), Random(seed), 0
    while length < len(ids):
        length = min(len(ids), length + rng.randint(1, 5))
        assert lookup.propose(ids[:length], most) == searched(ids[:length], most)


def run(pace: Pace, steps: int, drafted_s: float, accepted: int) -> tuple[float, float]:
    """(seconds, tokens) of so many steps where plain ones take 1 s."""
    seconds = tokens = 0.0
    for _ in range(steps):
        if pace.wants_drafts():
            pace.drafted_step(drafted_s, 1 + accepted)
            seconds, tokens = seconds + drafted_s, tokens + 1 + accepted
        else:
            pace.plain_step(1.0)
            seconds, tokens = seconds + 1.0, tokens + 1
    return seconds, tokens


def test_drafting_that_pays_stays_on() -> None:
    seconds, tokens = run(Pace(), 1000, drafted_s=1.5, accepted=2)
    assert tokens / seconds > 1.9  # 3 tokens in 1.5 s


def test_drafting_that_does_not_pay_costs_little() -> None:
    seconds, tokens = run(Pace(), 5000, drafted_s=2.0, accepted=0)
    assert tokens / seconds > 0.97
    seconds, tokens = run(Pace(), 5000, drafted_s=2.5, accepted=1)
    assert tokens / seconds > 0.97


def test_it_is_tried_again_when_the_text_changes() -> None:
    pace = Pace()
    run(pace, 500, drafted_s=1.5, accepted=0)
    seconds, tokens = run(pace, 2000, drafted_s=1.5, accepted=3)
    assert tokens / seconds > 1.5
