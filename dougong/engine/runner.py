"""One step on the model: tokens of many requests in, drawn tokens out (torch lives here).

Requests lie end to end in one flat batch. The model's rows do not depend on their neighbours, and a
token is drawn from its own row alone, so a request's tokens are those it would have had by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dougong.engine.request import Logprob, Request
from dougong.engine.sampler import DEFAULT_OPTIONS, Options, adjust, draw, logprob
from dougong.errors import DougongError
from dougong.model.sampling import SamplingParams, sample_many
from dougong.model.state import RequestState
from dougong.model.transformer import Transformer


@dataclass
class Work:
    """One request's part: compute `ids` behind its state; the last `drafts` of them are guesses."""

    request: Request
    state: RequestState
    ids: list[int]
    drafts: int = 0

    @property
    def draws(self) -> bool:
        """Whether a token comes out: everything the request has so far is computed."""
        return len(self.ids) - self.drafts == self.request.wanted

    @property
    def scores(self) -> bool:
        """Whether prompt tokens are scored on the way."""
        wanted = self.request.job.prompt_logprobs is not None
        return wanted and self.request.computed < self.request.prompt_tokens


@dataclass
class Result:
    """What came of one `Work`: tokens in order, and how many drafts stand in the state."""

    work: Work
    tokens: list[int] = field(default_factory=list)
    logprobs: list[Logprob] = field(default_factory=list)
    prompt_logprobs: list[Logprob] = field(default_factory=list)
    accepted: int = 0
    streams_TSD: Tensor | None = None  # of the whole step; its own begin at row ...
    first: int = 0
    kept: int = 0  # ... and are so many
    error: DougongError | None = None

    @property
    def streams(self) -> Tensor:
        """[K, S, D] behind each token that was kept, for MTP drafts."""
        assert self.streams_TSD is not None
        return self.streams_TSD[self.first : self.first + self.kept]

    @property
    def drafted(self) -> int:
        """Drafts that were verified."""
        return self.work.drafts


class Runner:
    """Runs steps on `model`; `num_ids`: ids from here on have no text and are never drawn."""

    def __init__(self, model: Transformer, num_ids: int | None = None) -> None:
        self.model, self.num_ids = model, num_ids

    @torch.inference_mode()
    def run(self, works: Sequence[Work]) -> list[Result]:
        """Computes all works in one forward pass and draws their tokens.

        States are advanced by what is kept: rejected drafts are rolled back.
        """
        ids_T = torch.tensor([token for work in works for token in work.ids], dtype=torch.int64)
        lengths = [len(work.ids) for work in works]
        streams_TSD = self.model(ids_T, lengths, [work.state for work in works])
        rows, spans = self._rows(works)
        logits_RV, ready = None, list[int | None]()
        if rows:
            wanted_RSD = streams_TSD if len(rows) == len(streams_TSD) else streams_TSD[rows]
            logits_RV = self.model.logits(wanted_RSD)[:, : self.num_ids]
            ready = self._sample(works, spans, logits_RV)
        results, low = [], 0
        for work, (first, last), length in zip(works, spans, lengths, strict=True):
            result = Result(work)
            if last > first:
                assert logits_RV is not None
                self._read(result, logits_RV, first, last, ready)
            kept = length - work.drafts + result.accepted
            if kept < length:
                work.state.rollback(length - kept)
            result.streams_TSD, result.first, result.kept = streams_TSD, low, kept
            results.append(result)
            low += length
        return results

    def _rows(self, works: Sequence[Work]) -> tuple[list[int], list[tuple[int, int]]]:
        """Flat rows whose logits are needed, and each work's span of them."""
        rows: list[int] = []
        spans, low = [], 0
        for work in works:
            first, high = len(rows), low + len(work.ids)
            if work.scores:
                rows.extend(range(low, high))
            elif work.draws:
                rows.extend(range(high - work.drafts - 1, high))
            spans.append((first, len(rows)))
            low = high
        return rows, spans

    def _sample(
        self, works: Sequence[Work], spans: Sequence[tuple[int, int]], logits_RV: Tensor
    ) -> list[int | None]:
        """Of every row the token drawn from it as it is; None where there is more to it."""
        rows: list[int] = []
        params: list[SamplingParams] = []
        positions: list[int] = []
        for work, (_, last) in zip(works, spans, strict=True):
            job, options = work.request.job, options_of(work.request)
            written = len(work.request.ids) - work.request.prompt_tokens
            is_plain = options.plain and work.request.guide is None and written >= job.min_tokens
            if work.draws and is_plain:
                rows += range(last - 1 - work.drafts, last)
                params += [options.sampling] * (work.drafts + 1)
                positions += range(len(work.request.ids), len(work.request.ids) + work.drafts + 1)
        tokens: list[int | None] = [None] * len(logits_RV)
        if rows:
            drawn_RV = logits_RV if len(rows) == len(logits_RV) else logits_RV[rows]
            drawn = sample_many(drawn_RV, params, positions)
            for row, token in zip(rows, drawn, strict=True):
                tokens[row] = token
        return tokens

    def _read(
        self, result: Result, logits_RV: Tensor, first: int, last: int, ready: list[int | None]
    ) -> None:
        """Scores prompt tokens and draws new ones from a work's rows, `first` to `last` - 1."""
        work, request = result.work, result.work.request
        try:
            if work.scores:
                self._score_prompt(result, logits_RV[first:last])
            if work.draws and request.job.max_tokens > 0:
                self._draw(result, logits_RV, last - 1 - work.drafts, ready)
        except DougongError as error:  # this request's fault or misfortune; the others go on
            result.error = error

    def _score_prompt(self, result: Result, logits_RV: Tensor) -> None:
        request, wanted = result.work.request, result.work.request.job.prompt_logprobs
        assert wanted is not None
        for row, logits_V in enumerate(logits_RV):
            at = request.computed + row + 1  # the token that this row foretells
            if at < request.prompt_tokens:
                scored = logprob(logits_V, request.ids[at], wanted)
                result.prompt_logprobs.append(scored)

    def _draw(self, result: Result, logits_RV: Tensor, first: int, ready: list[int | None]) -> None:
        """Draws the next token from row `first` and, while drafts equal it, those behind them."""
        work, request = result.work, result.work.request
        guesses = work.ids[len(work.ids) - work.drafts :]
        for i in range(work.drafts + 1):  # a row is cut out only where it is needed: it costs time
            row, token = first + i, ready[first + i]
            if token is None:
                token = self._next(request, result.tokens, logits_RV[row])
            if request.guide is not None:
                request.guide.take(token)
            if request.job.logprobs is not None:
                result.logprobs.append(logprob(logits_RV[row], token, request.job.logprobs))
            result.tokens.append(token)
            if i == work.drafts or guesses[i] != token or token in request.job.stop_ids:
                return
            result.accepted += 1

    def _next(self, request: Request, before: list[int], logits_V: Tensor) -> int:
        job, options = request.job, options_of(request)
        written = request.written + before
        early = len(written) < job.min_tokens
        adjusted_V = adjust(
            logits_V,
            options,
            job.prompt_ids,
            written,
            forbidden=sorted(job.stop_ids) if early else (),
            allowed_V=None if request.guide is None else request.guide.allowed(),
        )
        return draw(adjusted_V, options.sampling, len(request.ids) + len(before))


def options_of(request: Request) -> Options:
    """How a request's tokens are drawn."""
    options = request.job.options
    return options if isinstance(options, Options) else DEFAULT_OPTIONS
