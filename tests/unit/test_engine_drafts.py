"""Drafts: prompt lookup against a search by hand, and the choice of how many pay."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from dougong.engine.drafts import (
    LONGEST_MATCH,
    OCCURRENCES,
    SHORTEST_MATCH,
    Odds,
    PromptLookup,
    StepCosts,
    worthwhile,
)


def searched(ids: list[int], most: int) -> list[int]:
    """The definition, the slow way: the longest match, the latest of several."""
    ends = [e for e in range(SHORTEST_MATCH, len(ids)) if ids[e - 2 : e] == ids[-2:]]
    ends = ends[::-1][:OCCURRENCES]
    for size in range(min(LONGEST_MATCH, len(ids)), SHORTEST_MATCH - 1, -1):
        for end in ends:
            if end >= size and ids[end - size : end] == ids[len(ids) - size :]:
                known = ids[end : end + most]
                return [known[i % len(known)] for i in range(most)]
    return []


@given(st.lists(st.integers(0, 3), max_size=90), st.integers(1, 8), st.integers(0, 2**32))
def test_lookup_finds_the_latest_recurrence_however_the_ids_arrived(
    ids: list[int], most: int, seed: int
) -> None:
    lookup, rng, length = PromptLookup(), Random(seed), 0
    while length < len(ids):
        length = min(len(ids), length + rng.randint(1, 5))
        assert lookup.propose(ids[:length], most) == searched(ids[:length], most)


def test_unmeasured_sizes_lie_between_their_neighbours() -> None:
    costs = StepCosts(lifetime=10)
    for tokens, seconds in ((1, 5.0), (1, 1.0), (5, 3.0), (5, 4.0), (9, 1.0)):
        costs.note(tokens, seconds)
    known = costs.known()
    assert known == {1: 1.0, 5: 3.0}  # the least; and once could be chance
    assert [StepCosts.of(n, known) for n in (1, 3, 5, 9)] == [1.0, 2.0, 3.0, 3.0]
    for _ in range(10):
        costs.note(1, 1.0)
    assert costs.known() == {1: 1.0}  # too long ago


def rate(counts: list[int], rows: list[list[float]], known: dict[int, float]) -> float:
    tokens = len(rows) + sum(sum(row[:n]) for row, n in zip(rows, counts, strict=True))
    return tokens / StepCosts.of(len(rows) + sum(counts), known)


@given(st.lists(st.floats(0.05, 0.95), min_size=1, max_size=3), st.integers(0, 2**32))
def test_the_drafts_chosen_are_the_best_there_are(chances: list[float], seed: int) -> None:
    rng = Random(seed)
    rows = [[chance**n for n in range(1, rng.randint(0, 3) + 1)] for chance in chances]
    known = {1: 1.0, 4: 1.0 + rng.random(), 12: 2.0 + 3 * rng.random()}
    counts, promised = worthwhile(rows, len(rows), known)
    assert rate(counts, rows, known) <= promised * (1 + 1e-9)
    assert rate(counts, rows, known) >= promised * (1 - 1e-9)
    choices = [[]]
    for row in rows:
        choices = [[*choice, n] for choice in choices for n in range(len(row) + 1)]
    best = max(rate(choice, rows, known) for choice in choices)
    plain = rate([0] * len(rows), rows, known)
    # what lies within the margin of drafting nothing may be left out
    assert promised >= best * (1 - 1e-9) or best <= plain * 1.03 * (1 + 1e-9)


def test_guesses_that_fail_lose_their_chance_and_get_another_in_time() -> None:
    odds = Odds()
    for _ in range(30):
        odds.note(0, 1)
    assert odds.chance(0.8) < 0.15
    for _ in range(2000):
        odds.forget()
    assert odds.chance(0.8) > 0.79
    for _ in range(30):
        odds.note(3, 0)
    assert odds.chance() > 0.9
