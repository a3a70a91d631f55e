"""Drafts by the model's own multi-token prediction block, from the streams that a step leaves.

The block is a layer with a window, so it needs to have seen the last tokens only; where it has
seen fewer (behind a restart, or after a pause in drafting), its guesses are worse and no less safe.
Source: DeepSeek-V3 report 2.2; architecture specification 2.7.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dougong.engine.runner import Result, options_of
from dougong.errors import InputError
from dougong.model.sampling import SamplingParams, sample, sample_many
from dougong.model.transformer import Transformer


class MTPDrafts:
    """Guesses by MTP block 0, fed with its own results to look further ahead.

    `num_ids`: ids from here on are never drawn.
    Raises InputError for a model without such a block.
    """

    def __init__(self, model: Transformer, num_ids: int | None = None) -> None:
        if not len(model.mtp):
            raise InputError("this checkpoint has no MTP block; choose mtp 0 for its drafts.")
        self.model, self.num_ids = model, num_ids

    @torch.inference_mode()
    def guess(self, results: Sequence[Result], depth: int) -> list[list[int]]:
        """`depth` tokens to follow each result's last drawn one; states are as before.

        Guesses are drawn with the noise of the very positions they are for, so that a block that
        agrees with the model also draws what the model will draw.
        """
        requests = [result.work.request for result in results]
        states = [result.work.state for result in results]
        parts, ids, lengths = [], list[int](), list[int]()
        for result, request, state in zip(results, requests, states, strict=True):
            streams_KSD = result.streams[-self.model.config.sliding_window :]
            start = request.computed - len(streams_KSD)
            if state.mtp_lengths[0] != start:
                state.skip_mtp(0, start)
            parts.append(streams_KSD)
            ids += request.ids[start + 1 : request.computed + 1]
            lengths.append(len(streams_KSD))
        streams_TSD = torch.cat(parts)
        guesses: list[list[int]] = [[] for _ in results]
        for ahead in range(depth):
            streams_TSD = self.model.mtp_streams(streams_TSD, torch.tensor(ids), lengths, states)
            last = torch.tensor(lengths).cumsum(0) - 1
            streams_TSD = streams_TSD[last]
            logits_RV = self.model.mtp_logits(streams_TSD)[:, : self.num_ids]
            params = [options_of(request).sampling for request in requests]
            positions = [len(request.ids) + ahead for request in requests]
            drawn = sample_many(logits_RV, params, positions)
            for row, token in enumerate(drawn):
                if token is None:
                    drawn[row] = _guess(logits_RV[row], params[row], positions[row])
            ids = [token or 0 for token in drawn]
            for guess, token in zip(guesses, ids, strict=True):
                guess.append(token)
            lengths = [1] * len(results)
        for request, state in zip(requests, states, strict=True):
            state.rollback_mtp(0, request.computed)
        return guesses


def _guess(logits_V: Tensor, sampling: SamplingParams, position: int) -> int:
    try:
        return sample(logits_V, sampling, position)
    except InputError:  # NaN here is no fault of the answer
        return 0
