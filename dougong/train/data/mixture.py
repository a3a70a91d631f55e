"""The training stream: families mixed by share of tokens, packed into batches.

A batch is a pure function of (seed, step). So the position in the data is one integer, resuming is
exact, and nothing has to be stored.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from dougong.errors import ConfigError
from dougong.train.data.corpus import Corpus
from dougong.train.data.encode import Encoded, Encoder, encode_sample
from dougong.train.data.families import FAMILIES
from dougong.train.data.needles import needle_family
from dougong.train.data.sources import SOURCES
from dougong.train.data.stories import tale
from dougong.train.data.task import Sample

PUBLIC_FAMILIES: dict[str, str] = {  # family -> what its sources are used for
    "prose": "prose",
    "manuals": "manuals",
    "prose_needles": "prose",
    "trivia": "trivia",
    "greetings": "greetings",
    "words": "words",
    "dictionary": "words",
}
CHARACTERS_PER_TOKEN = 2.8  # fewer than prose has, so that most passages fit
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


def needed_sources(mix: Iterable[str], *, full: bool = False) -> tuple[str, ...]:
    """The public packages that these families read; `full`: those that only Debian has, too.

    Raises:  ConfigError for a family that has none but Debian's, unless `full`.
    """
    uses = {PUBLIC_FAMILIES[name]: name for name in mix if name in PUBLIC_FAMILIES}
    found = [s for s in SOURCES.values() if s.use in uses and (full or s.registry != "debian")]
    if missing := set(uses) - {source.use for source in found}:
        names = sorted(uses[use] for use in missing)
        raise ConfigError(
            f"{', '.join(names)}: only Debian packages hold this; set data.full = true"
        )
    return tuple(source.name for source in found)


def families_of(corpus: Corpus, max_length: int) -> dict[str, Draw]:
    """Everything that a mix may name: generated tasks, stories as running text, public texts.

    Args:    max_length: in tokens; passages are as long as fits.
    """
    characters = round(CHARACTERS_PER_TOKEN * max_length)
    families: dict[str, Draw] = {
        **FAMILIES,
        "tales": tale,
        "prose": partial(corpus.passage, use="prose", characters=characters),
        "manuals": partial(corpus.passage, use="manuals", characters=characters),
        "prose_needles": needle_family("prose_needles", 300, characters, corpus.filler),
        "trivia": corpus.fact,
        "greetings": corpus.exchange,
        "words": corpus.dictionary.word,
        "dictionary": corpus.dictionary.family(),
    }
    return families


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
        families = families_of(corpus, max_length)
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
