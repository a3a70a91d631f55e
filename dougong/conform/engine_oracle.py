"""What a request's answer must be: the request alone, one token at a time, nothing remembered.

No batch, no chunks, no cache, no drafts, no scheduler: an empty state, then one forward pass of one
row for each token. It shares with the engine the model and the pure functions of one row of logits
(`adjust`, `sample`, `logprob`), and nothing that keeps state.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from dougong.chat.tokenizer import Tokenizer
from dougong.engine.request import Finish, Guide, Job, Logprob
from dougong.engine.sampler import Options, adjust, draw, logprob
from dougong.model.state import RequestState
from dougong.model.transformer import Transformer


@dataclass
class Answer:
    """What a reply must say; `finish` is None where the answer was not followed to its end."""

    ids: list[int] = field(default_factory=list)
    logprobs: list[Logprob] = field(default_factory=list)
    prompt_logprobs: list[Logprob] = field(default_factory=list)
    finish: Finish | None = None
    text: str = ""


class Oracle:
    """Answers jobs on `model`, one after another."""

    def __init__(self, model: Transformer, tokenizer: Tokenizer) -> None:
        self.model, self.tokenizer = model, tokenizer

    @torch.inference_mode()
    def answer(self, job: Job, most: int | None = None) -> Answer:
        """The answer to `job`; of one that was cut short, its first `most` tokens."""
        answer, state, row_V = Answer(), self.model.new_state(), torch.empty(0)
        guide = None if job.grammar is None else job.grammar.guide()
        for at, token in enumerate(job.prompt_ids):
            row_V = self._next_row(token, state)
            if job.prompt_logprobs is not None and at + 1 < len(job.prompt_ids):
                following = job.prompt_ids[at + 1]
                answer.prompt_logprobs.append(logprob(row_V, following, job.prompt_logprobs))
        if job.max_tokens == 0:
            answer.finish = Finish.LENGTH
        while answer.finish is None and (most is None or len(answer.ids) < most):
            if answer.ids:
                row_V = self._next_row(answer.ids[-1], state)
            self._write(job, answer, row_V, guide)
        return answer

    def _next_row(self, token: int, state: RequestState) -> Tensor:
        """The logits behind one more token."""
        streams_1SD = self.model(torch.tensor([token]), [1], [state])
        row_V: Tensor = self.model.logits(streams_1SD)[0, : self.tokenizer.num_ids]
        return row_V

    def _write(self, job: Job, answer: Answer, row_V: Tensor, guide: Guide | None) -> None:
        """Adds the next token of the answer, and its end if that is it."""
        options = job.options if isinstance(job.options, Options) else Options()
        forbidden = sorted(job.stop_ids) if len(answer.ids) < job.min_tokens else ()
        allowed_V = None if guide is None else guide.allowed()
        adjusted_V = adjust(
            row_V, options, job.prompt_ids, answer.ids, forbidden=forbidden, allowed_V=allowed_V
        )
        token = draw(adjusted_V, options.sampling, len(job.prompt_ids) + len(answer.ids))
        if guide is not None:
            guide.take(token)
        if job.logprobs is not None:
            answer.logprobs.append(logprob(row_V, token, job.logprobs))
        answer.ids.append(token)
        is_stop = token in job.stop_ids
        shown = self._text(job, answer.ids[:-1] if is_stop else answer.ids)
        ends = self._stops(job, answer, shown) if len(answer.ids) >= job.min_tokens else []
        answer.text = shown[: min(ends)] if ends else shown
        if is_stop or ends:
            answer.finish = Finish.STOP
        elif len(answer.ids) >= job.max_tokens:
            answer.finish = Finish.LENGTH

    def _text(self, job: Job, ids: list[int]) -> str:
        """The text of ids; half a character at its end is left out where a grammar counts."""
        if job.grammar is None:
            return self.tokenizer.decode(ids)
        return "".join(map(self.tokenizer.stream_decoder().push, ids))

    def _stops(self, job: Job, answer: Answer, shown: str) -> list[int]:
        """Where stop strings begin that the last token completed."""
        before = len(self.tokenizer.decode(answer.ids[:-1]).rstrip("\ufffd"))  # of half a character
        found = [shown.find(stop, max(before - len(stop) + 1, 0)) for stop in job.stops]
        return [at for at in found if at >= 0]
