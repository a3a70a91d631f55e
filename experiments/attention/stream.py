"""An artificial language in which looking back pays: filler, facts, and questions about them.

Filler is a fixed chain: each token has four successors. In between, facts are told and asked for. A
document draws its own value for each key. One token tells a fact, key and value; a question is
the key's own token, and its value follows. What was told can be answered only by finding it in the
context, and one look back is enough. A fact is asked for once, then it can be told again. How far
back the facts lie that are asked for is spread over all powers of two, as far as any lies there.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from functools import cache

from dougong.train.data.encode import Encoded

BOS = 0
FILLER = range(16, 272)
NUM_KEYS, NUM_VALUES = 24, 8
FACTS = range(272, 272 + NUM_KEYS * NUM_VALUES)  # FACTS[key * NUM_VALUES + value]
KEYS = range(464, 464 + NUM_KEYS)
VALUES = range(488, 488 + NUM_VALUES)
SUCCESSOR_ODDS = (0.5, 0.25, 0.15, 0.1)
FILLER_WEIGHT = 0.1  # of filler in the loss; answers count 1, what cannot be known 0
TELL = 0.5  # share of telling among steps that tell or ask, while both can be done
DENSITY = (0.05, 0.5)  # of such steps: a document's own, drawn evenly in its logarithm
SHORTEST_LAG = 2


@dataclass(frozen=True)
class Document:
    """Token ids; `lags`: for a token that answers, the tokens since its fact was told."""

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


class Writer:
    """A document while it is written: `told` has where each fact lies that was not asked for."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.ids, self.lags = [BOS], dict[int, int]()
        self.values = [rng.randrange(NUM_VALUES) for _ in range(NUM_KEYS)]
        self.told: dict[int, int] = {}
        self.token = rng.choice(FILLER)

    def filler(self) -> None:
        """The chain's next token."""
        self.token = self.rng.choices(successors()[self.token], SUCCESSOR_ODDS)[0]
        self.ids.append(self.token)

    def tell(self, key: int) -> None:
        """Tells a key's value: one token."""
        self.told[key] = len(self.ids)
        self.ids.append(FACTS[key * NUM_VALUES + self.values[key]])

    def ask(self, key: int) -> None:
        """Asks for a key that was told, and answers: two tokens."""
        self.lags[len(self.ids) + 1] = len(self.ids) + 1 - self.told.pop(key)
        self.ids += [KEYS[key], VALUES[self.values[key]]]

    def key_to_ask(self) -> int:
        """The key that was told nearest to a distance drawn evenly in its logarithm."""
        now = len(self.ids) + 1
        longest = max(now - min(self.told.values()), SHORTEST_LAG)
        lag = math.exp(self.rng.uniform(math.log(SHORTEST_LAG), math.log(longest)))
        return min(self.told, key=lambda key: abs(math.log((now - self.told[key]) / lag)))


def document(rng: random.Random, length: int) -> Document:
    """A document of `length` tokens, BOS included."""
    low, high = map(math.log, DENSITY)
    density = math.exp(rng.uniform(low, high))
    writer = Writer(rng)
    while len(writer.ids) < length:
        if rng.random() >= density or len(writer.ids) + 2 > length:
            writer.filler()
        elif not writer.told or (len(writer.told) < NUM_KEYS and rng.random() < TELL):
            writer.tell(rng.choice([key for key in range(NUM_KEYS) if key not in writer.told]))
        else:
            writer.ask(writer.key_to_ask())
    return Document(writer.ids, writer.lags)


def haystack(rng: random.Random, length: int, num_facts: int) -> Document:
    """Filler with `num_facts` facts anywhere in it, each of which is asked for at the end."""
    keys = rng.sample(range(NUM_KEYS), num_facts)
    writer = Writer(rng)
    rest = length - 1 - 2 * num_facts  # tokens before the questions
    facts = dict(zip(sorted(rng.sample(range(rest), num_facts)), keys, strict=True))
    for at in range(rest):
        if at in facts:
            writer.tell(facts[at])
        else:
            writer.filler()
    for key in rng.sample(keys, num_facts):
        writer.ask(key)
    return Document(writer.ids, writer.lags)
