"""An artificial language in which looking back pays: filler with facts that come again.

Filler is a fixed chain: each token has four successors. In between stand facts, a key and its
value; a document draws its own value for each key, so a key that comes again can be completed only
by finding it in the context. Keys are random and what follows a new key cannot be known: neither
counts in the loss. How far back a key was last seen is spread evenly over all powers of two.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_left
from dataclasses import dataclass
from functools import cache

from dougong.train.data.encode import Encoded

BOS = 0
FILLER = range(16, 272)
KEYS = range(272, 400)
VALUES = range(400, 464)
SUCCESSOR_ODDS = (0.5, 0.25, 0.15, 0.1)
FILLER_WEIGHT = 0.1  # of filler in the loss; values that can be looked up count 1
NEW_KEY = 0.3  # share of facts with a key not seen before, while there are any
DENSITY = (0.05, 0.5)  # facts per step: a document's own, drawn evenly in its logarithm
SHORTEST_LAG = 4


@dataclass(frozen=True)
class Document:
    """Token ids; `lags`: for a token that is a value known from before, the tokens since then."""

    ids: list[int]
    lags: dict[int, int]

    def encoded(self) -> Encoded:
        """For training: ids, and the weight of predicting each."""
        weights = [FILLER_WEIGHT if token in FILLER else 0.0 for token in self.ids]
        for at in self.lags:
            weights[at] = 1.0
        return Encoded(self.ids, [0.0, *weights[1:]])


@cache
def successors() -> dict[int, list[int]]:
    """The filler's chain, the same in every document."""
    rng = random.Random("filler")
    return {token: rng.sample(list(FILLER), len(SUCCESSOR_ODDS)) for token in FILLER}


def filler_nats() -> float:
    """Entropy of a filler token that follows filler: the loss cannot fall below it."""
    return -sum(p * math.log(p) for p in SUCCESSOR_ODDS)


def document(rng: random.Random, length: int) -> Document:
    """A document of `length` tokens, BOS included."""
    low, high = map(math.log, DENSITY)
    density = math.exp(rng.uniform(low, high))
    ids, lags = [BOS], {}
    facts: dict[int, int] = {}
    seen: list[tuple[int, int]] = []  # (where, key) of each key's last occurrence, in order
    token = rng.choice(FILLER)
    while len(ids) < length:
        if rng.random() < density and len(ids) + 2 <= length:
            key = _draw_key(rng, facts, seen, len(ids))
            value = facts.setdefault(key, rng.choice(VALUES))
            before = next((place for place in seen if place[1] == key), None)
            if before is not None:
                seen.remove(before)
                lags[len(ids) + 1] = len(ids) - before[0]
            seen.append((len(ids), key))
            ids += [key, value]
        else:
            token = rng.choices(successors()[token], SUCCESSOR_ODDS)[0]
            ids.append(token)
    return Document(ids, lags)


def _draw_key(
    rng: random.Random, facts: dict[int, int], seen: list[tuple[int, int]], now: int
) -> int:
    """A new key, or the known one whose last occurrence is nearest to a drawn distance."""
    if not facts or (len(facts) < len(KEYS) and rng.random() < NEW_KEY):
        return rng.choice([key for key in KEYS if key not in facts])
    lag = math.exp(rng.uniform(math.log(SHORTEST_LAG), math.log(max(now, SHORTEST_LAG + 1))))
    at = bisect_left(seen, (now - lag, 0))
    return min(seen[max(at - 1, 0) : at + 1], key=lambda place: abs(now - place[0] - lag))[1]


def haystack(rng: random.Random, length: int, num_facts: int) -> Document:
    """Filler with `num_facts` facts anywhere in it, then each key once more with its value.

    The repeated ones, at the end, are the questions; `lags` has them alone.
    """
    keys = rng.sample(KEYS, num_facts)
    facts = {key: rng.choice(VALUES) for key in keys}
    body = length - 1 - 4 * num_facts
    gaps = sorted(rng.randrange(body + 1) for _ in keys)
    ids, places = [BOS], {}
    token = rng.choice(FILLER)
    waiting = list(zip(gaps, keys, strict=True))
    for at in range(body + 1):
        while waiting and waiting[0][0] == at:
            key = waiting.pop(0)[1]
            places[key] = len(ids)
            ids += [key, facts[key]]
        if at < body:
            token = rng.choices(successors()[token], SUCCESSOR_ODDS)[0]
            ids.append(token)
    lags = {}
    for key in rng.sample(keys, num_facts):
        lags[len(ids) + 1] = len(ids) - places[key]
        ids += [key, facts[key]]
    return Document(ids, lags)
