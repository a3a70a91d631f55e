"""Random jobs: prompts that share beginnings, so that caches are hit, and prompts that nearly do,
so that a wrong hit shows.

Lengths gather around what can go wrong: the residues of 4 (a CSA entry), and 128 (a block, the
window, an HCA entry).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import Tensor

from dougong.chat.tokenizer import Tokenizer
from dougong.engine.request import Job
from dougong.engine.sampler import Options
from dougong.engine.scheduler import BLOCK_TOKENS
from dougong.model.sampling import SamplingParams

RECENT = 10  # conversations that are asked about again
BASES = 3  # conversations that prompts are cut from
LEAST_BLOCKS, MOST_BLOCKS = 5, 16  # of a conversation
MOST_TAIL, MOST_WRITTEN = 40, 150


@dataclass(frozen=True)
class Rotation:
    """A grammar of no language: which third of the ids cannot come hangs on all ids before."""

    num_ids: int

    def guide(self) -> _Turn:
        """One at the beginning of an answer."""
        return _Turn(self.num_ids)


class _Turn:
    """Where an answer is in a `Rotation`."""

    def __init__(self, num_ids: int) -> None:
        self._thirds_V, self._sum = torch.arange(num_ids) % 3, 0

    def allowed(self) -> Tensor:
        """A mask over the ids."""
        return self._thirds_V != self._sum % 3

    def take(self, token: int) -> None:
        """Told each id."""
        self._sum += token + 1


class Jobs:
    """A source of jobs; `rng` decides everything but what the answers say (`heard`).

    `layers`: of the model. Where they are few, conversations are longer than what is replayed when
    a window is missing.
    """

    def __init__(self, rng: Random, tokenizer: Tokenizer, layers: int) -> None:
        self._rng, self._tokenizer = rng, tokenizer
        self._base_blocks = min(max(layers + 2, LEAST_BLOCKS), MOST_BLOCKS)
        self._bases = [self._ids(self._base_blocks * BLOCK_TOKENS) for _ in range(BASES)]
        self._drawn = 0
        self._recent: deque[tuple[str, list[int]]] = deque(maxlen=RECENT)

    @property
    def longest(self) -> int:
        """Tokens of any request, at most."""
        return self._base_blocks * BLOCK_TOKENS + MOST_TAIL + MOST_WRITTEN

    def draw(self) -> Job:
        """A job of any kind."""
        rng = self._rng
        self._drawn += 1
        tenant = rng.choice(["", "", "", "another", "another", f"the {self._drawn}th"])
        repeated = rng.random() < 0.25
        if self._recent and rng.random() < 0.25:
            (tenant, prompt), repeated = self._again(), False
        else:
            prompt = self._repetition() if repeated else self._prompt()
        new = rng.choice([1, 2, 5, 12, 12, 30, MOST_WRITTEN])
        scored = rng.choice([None] * 6 + [0, 1])
        if scored is not None and rng.random() < 0.3:
            new = 0
        num_ids = self._tokenizer.num_ids
        stops = rng.sample(prompt, 1) if repeated else rng.sample(range(num_ids), num_ids // 20)
        stop_ids = frozenset(rng.choice([[], stops]))
        return Job(
            prompt_ids=prompt,
            max_tokens=new,
            min_tokens=rng.choice([0, rng.randint(0, min(new, 12))]),
            stop_ids=stop_ids,
            stops=rng.choice([(), (), ("e", "the"), ("tt", "aa", "  ")]),
            options=self._options(prompt if repeated else ()),
            grammar=rng.choice([None, Rotation(num_ids)]) if stop_ids else None,
            priority=rng.choice([0, 0, 0, 1]),
            tenant=tenant,
            deadline_s=rng.choice([None] * 9 + [rng.uniform(1, 40)]),
            logprobs=rng.choice([None, 0, 2]),
            prompt_logprobs=scored,
        )

    def heard(self, job: Job, ids: Sequence[int]) -> None:
        """Takes a conversation up: later prompts may go on behind this answer."""
        rng = self._rng
        whole = [*job.prompt_ids, *ids][: self._base_blocks * BLOCK_TOKENS]
        if len(whole) > BLOCK_TOKENS:
            self._recent.append((job.tenant, whole))
        if len(whole) > 2 * BLOCK_TOKENS and rng.random() < 0.3:
            self._bases[rng.randrange(BASES)] = whole

    def _ids(self, count: int) -> list[int]:
        return [self._rng.randrange(self._tokenizer.num_ids) for _ in range(count)]

    def _prompt(self) -> list[int]:
        """A base's beginning, perhaps with one token changed, and something new behind it."""
        rng = self._rng
        base = rng.choice(self._bases)
        around = BLOCK_TOKENS * rng.randint(1, self._base_blocks) + rng.randint(-3, 3)
        cut = rng.choice([rng.randint(1, 9), around, around, rng.randint(1, len(base)), len(base)])
        prompt = base[:cut]
        if rng.random() < 0.25:
            prompt[rng.randrange(len(prompt))] = self._ids(1)[0]
        return prompt + self._ids(rng.choice([0, 0, 1, 3, rng.randint(1, MOST_TAIL)]))

    def _again(self) -> tuple[str, list[int]]:
        """A tenant, and what goes on right behind a block that it was just heard with."""
        tenant, known = self._rng.choice(self._recent)
        cut = BLOCK_TOKENS * self._rng.randint(1, len(known) // BLOCK_TOKENS)
        return tenant, known[:cut] + self._ids(self._rng.randint(1, 3))

    def _repetition(self) -> list[int]:
        """A phrase over and over: what drafts are made for."""
        phrase = self._ids(self._rng.randint(2, 6))
        return (phrase * 60)[: self._rng.randint(8, 140)]

    def _options(self, favoured: Sequence[int]) -> Options:
        """How to draw; `favoured` tokens are likely, so that the answer repeats them."""
        rng = self._rng
        settings: dict[str, Any] = {}
        if favoured:
            settings["logit_bias"] = dict.fromkeys(favoured, 30.0)
        elif rng.random() < 0.4:
            settings = {
                "presence_penalty": rng.choice([0.0, 1.0]),
                "frequency_penalty": rng.choice([0.0, 0.5]),
                "repetition_penalty": rng.choice([1.0, 1.3]),
                "logit_bias": rng.choice([{}, {7: 5.0, 9: -5.0}]),
            }
        sampling = SamplingParams(
            temperature=rng.choice([0.0, 0.7, 1.0, 1.5]),
            top_p=rng.choice([0.8, 1.0]),
            top_k=rng.choice([0, 20]),
            min_p=rng.choice([0.0, 0.05]),
            seed=rng.randrange(1000),
        )
        return Options(sampling=sampling, **settings)
