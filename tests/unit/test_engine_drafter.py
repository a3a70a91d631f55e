"""When drafting pays: the drafter against made-up texts and made-up costs of steps, no clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import cast

import pytest

from dougong.engine.drafter import Drafter
from dougong.engine.request import Job, Phase, Request
from dougong.engine.runner import Result, Work
from dougong.engine.settings import DraftSettings
from dougong.model.state import RequestState
from dougong.model.transformer import Transformer

PROMPT = [1, 2, 3]


class Foreteller:
    """An MTP block that is right so often, and takes so long."""

    def __init__(self, texts: dict[int, list[int]], chance: float, seconds: float) -> None:
        self.texts, self.chance, self.seconds = texts, chance, seconds
        self.rng, self.now = Random(1), 0.0

    def guess(self, results: Sequence[Result], depth: int) -> list[list[int]]:
        self.now += self.seconds * depth
        guesses = []
        for result in results:
            request = result.work.request
            truth = self.texts[request.id][len(request.written) :][:depth]
            guesses.append([t if self.rng.random() < self.chance else -1 for t in truth])
        return guesses


def speed(
    texts: list[list[int]],
    cost: Callable[[int], float],
    settings: DraftSettings,
    chance: float = 0.0,
    foretelling: float = 0.0,
) -> float:
    """Tokens a second of writing `texts` side by side, relative to no drafts."""
    drafter = Drafter(cast(Transformer, None), DraftSettings(lookup=settings.lookup))
    by_number = dict(enumerate(texts))
    block = Foreteller(by_number, chance, foretelling)
    if settings.mtp:
        drafter.settings, drafter.mtp, drafter.clock = settings, block, lambda: block.now  # type: ignore[assignment]
    requests = []
    for number, text in by_number.items():
        request = Request(number, Job(prompt_ids=PROMPT, max_tokens=len(text)), 0.0)
        request.phase = Phase.DECODE
        request.ids.append(text[0])
        requests.append(request)
    seconds = plain = 0.0
    while writing := [r for r in requests if len(r.written) < len(texts[r.id])]:
        results, tokens = [], 0
        for request in writing:
            rest = texts[request.id][len(request.written) :]
            drafts = request.drafts
            right = next((i for i, d in enumerate(drafts) if d != rest[i]), len(drafts))
            work = Work(request, cast(RequestState, None), [0, *drafts], len(drafts))
            request.computed = len(request.ids) - 1
            results.append(Result(work, rest[: right + 1], accepted=right))
            tokens += 1 + len(drafts)
        seconds += cost(tokens)
        drafter.learn(results, cost(tokens))
        for result in results:
            request = result.work.request
            request.ids += result.tokens
            request.computed += len(result.tokens)
            plain += len(result.tokens) / len(writing) * cost(len(writing))
        drafter.prepare(results)
    return plain / (seconds + block.now)


def line(each: float) -> Callable[[int], float]:
    """A token more in a step costs `each` of a step of one."""
    return lambda tokens: 1.0 + each * (tokens - 1)


def noise(seed: int, length: int, kinds: int) -> list[int]:
    rng = Random(seed)
    return [rng.randrange(kinds) for _ in range(length)]


def test_repeated_text_is_written_much_faster() -> None:
    text = noise(1, 40, 1000) * 30
    assert speed([text], line(0.3), DraftSettings(lookup=7)) > 2.0
    # 8 tokens take 3.1, 64 take 19.9: all drafts right would be 1.25 times as fast
    assert speed([text] * 8, line(0.3), DraftSettings(lookup=7)) > 1.15


@pytest.mark.parametrize("kinds", [2, 3, 1000])
@pytest.mark.parametrize("each", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("writers", [1, 6])
def test_text_that_does_not_repeat_is_written_as_fast_as_without_drafts(
    kinds: int, each: float, writers: int
) -> None:
    texts = [noise(seed, 1500, kinds) for seed in range(writers)]
    assert speed(texts, line(each), DraftSettings(lookup=7)) > 0.97


def test_a_good_block_is_used_and_a_bad_or_slow_one_is_not() -> None:
    texts = [noise(1, 3000, 1000)]
    both = DraftSettings(mtp=2)
    assert speed(texts, line(0.2), both, chance=0.9, foretelling=0.1) > 1.5
    assert speed(texts, line(0.2), both, chance=0.0, foretelling=0.1) > 0.97
    assert speed(texts, line(0.2), both, chance=0.9, foretelling=1.0) > 0.97


def test_drafting_begins_when_the_text_begins_to_repeat() -> None:
    text = noise(1, 1000, 3) + noise(2, 30, 1000) * 100
    assert speed([text], line(0.3), DraftSettings(lookup=7)) > 1.5
