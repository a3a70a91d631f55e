"""The prefix cache against a plain dictionary of prefixes, under random use."""

from __future__ import annotations

from collections import Counter
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from dougong.engine.prefix_cache import Match, PrefixCache
from dougong.engine.scheduler import BLOCK_TOKENS


class Owner:
    """Counts the references that the cache holds; a handle given back twice is an error."""

    def __init__(self) -> None:
        self.blocks: Counter[int] = Counter()
        self.resumes: set[object] = set()
        self.serial = 0

    def block(self) -> int:
        self.serial += 1
        self.blocks[self.serial] += 1
        return self.serial

    def resume(self) -> object:
        made = object()
        self.resumes.add(made)
        return made

    def drop_block(self, block: int) -> None:
        assert self.blocks[block] == 1, "a block was dropped twice"
        del self.blocks[block]

    def drop_resume(self, resume: object) -> None:
        self.resumes.remove(resume)


def sequence(letters: str) -> list[int]:
    """A block of tokens a letter."""
    return [ord(letter) * 1000 + i for letter in letters for i in range(BLOCK_TOKENS)]


def store(cache: PrefixCache, owner: Owner, tenant: str, ids: list[int], at: list[int]) -> None:
    """Inserts all blocks of `ids`, with resume points behind `at`; gives back what was known."""
    blocks = [owner.block() for _ in range(len(ids) // BLOCK_TOKENS)]
    nodes = cache.insert(tenant, ids, blocks, {n: (owner.resume(), 100) for n in at})
    for block in set(blocks) - {node.block for node in nodes}:
        owner.drop_block(block)


def fresh(budget: int = 10_000) -> tuple[PrefixCache, Owner]:
    owner = Owner()
    return PrefixCache(budget, owner.drop_block, owner.drop_resume), owner


def test_a_hit_begins_with_the_first_complete_block() -> None:
    cache, owner = fresh()
    store(cache, owner, "", sequence("ab")[: BLOCK_TOKENS + 60], [1])
    assert cache.match("", sequence("ab")).tokens == BLOCK_TOKENS
    assert cache.match("", sequence("a")[:-1]).tokens == 0
    assert cache.match("", sequence("ax")).resumable_tokens == BLOCK_TOKENS


def test_one_tenant_cannot_find_what_another_stored() -> None:
    cache, owner = fresh()
    store(cache, owner, "one", sequence("ab"), [2])
    assert cache.match("two", sequence("ab")).tokens == 0


def test_the_least_recently_used_end_goes_first_and_what_is_in_use_stays() -> None:
    cache, owner = fresh()
    store(cache, owner, "", sequence("abc"), [3])
    store(cache, owner, "", sequence("axy"), [3])
    held = cache.match("", sequence("ax")).nodes
    cache.hold(held)
    assert cache.evictable() == 3
    assert cache.evict(2) == 2  # c, then b: older than y
    assert cache.match("", sequence("abc")).tokens == BLOCK_TOKENS
    assert cache.evict(100) == 1
    assert cache.match("", sequence("axy")).tokens == 2 * BLOCK_TOKENS
    cache.let_go(held)
    cache.clear()
    assert not owner.blocks
    assert not owner.resumes


def test_resume_points_keep_to_their_budget_and_leave_the_blocks() -> None:
    cache, owner = fresh(budget=250)
    for letters in ("ab", "cd", "ef"):
        store(cache, owner, "", sequence(letters), [2])
    assert cache.resume_bytes == 200
    assert len(owner.resumes) == 2
    old = cache.match("", sequence("ab"))
    assert (old.tokens, old.resumable_tokens) == (2 * BLOCK_TOKENS, 0)


def test_nothing_is_left_of_what_was_used_often_or_is_gone() -> None:
    cache, owner = fresh()
    store(cache, owner, "", sequence("abc"), [3])
    for _ in range(100):
        nodes = cache.match("", sequence("abc")).nodes
        cache.hold(nodes)
        cache.let_go(nodes)
    assert len(cache._leaves) == 1
    for number in range(100):
        cache.match(f"stranger {number}", sequence("a"))
        store(cache, owner, f"caller {number}", sequence("a"), [])
    assert cache.evict(102) == 102  # the first tenant's were used before, its beginning is left
    assert len(cache._roots) == 1 == len(cache._leaves)
    cache.clear()
    assert not cache._roots


operations = st.lists(
    st.tuples(
        st.sampled_from(["store", "match", "hold", "let go", "evict"]),
        st.text("ab", min_size=0, max_size=6),
        st.integers(0, 5),
    ),
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(operations, st.integers(0, 900), st.integers(0, 2**32))
def test_every_prefix_is_what_was_stored_and_no_reference_is_lost(
    steps: list[tuple[str, str, int]], budget: int, seed: int
) -> None:
    cache, owner = fresh(budget)
    rng, known, held, never_evicted = Random(seed), set[str](), list[Match](), True
    for what, letters, number in steps:
        if what == "store":
            store(cache, owner, "t", sequence(letters), [number] if number <= len(letters) else [])
            known |= {letters[: i + 1] for i in range(len(letters))}
        elif what == "match":
            found = cache.match("t", sequence(letters)).tokens // BLOCK_TOKENS
            longest = max((i for i in range(len(letters) + 1) if letters[:i] in known), default=0)
            assert found == longest if never_evicted else found <= longest
        elif what == "hold":
            held.append(cache.match("t", sequence(letters)))
            cache.hold(held[-1].nodes)
        elif what == "let go" and held:
            cache.let_go(held.pop(rng.randrange(len(held))).nodes)
        elif what == "evict":
            free = cache.evictable()
            assert cache.evict(number) == min(number, free)
            never_evicted = never_evicted and min(number, free) == 0
        assert sum(owner.blocks.values()) == cache.num_blocks
        assert cache.resume_bytes == 100 * len(owner.resumes) <= budget
        for match in held:
            assert all(owner.blocks[node.block] == 1 for node in match.nodes)
    for match in held:
        cache.let_go(match.nodes)
    cache.clear()
    assert not owner.blocks
    assert not owner.resumes
