"""How long a prompt will take, before it is computed: measured where it is cheap and where not."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from dougong.engine.scheduler import BLOCK_TOKENS, blocks_for
from dougong.engine.states import States
from dougong.errors import InputError

TRIALS = 2  # of each measurement; the faster one counts


@torch.inference_mode()
def prompt_seconds(
    states: States, tokens: int, step_tokens: int, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Seconds to compute a prompt of so many tokens from its beginning, alone, in steps.

    A token costs more the more tokens there are before it, for it scores their index entries. So a
    step is timed at the beginning, in the middle and at the end, the latter two on a state of blank
    entries, which are as much work as real ones; Simpson's rule gives the sum over all steps.
    Raises InputError if so many tokens do not fit into memory beside what is in use.
    """
    blocks = _blank(states, blocks_for(tokens))
    try:
        chunk = min(step_tokens, tokens)
        starts = (0, (tokens - chunk) // 2, tokens - chunk)
        first, middle, last = (
            min(_step_seconds(states, blocks, start, chunk, clock) for _ in range(TRIALS))
            for start in starts
        )
    finally:
        states.pool.drop(blocks)
    return (first + 4 * middle + last) / 6 * tokens / chunk


def _blank(states: States, count: int) -> list[int]:
    """So many blocks of zeros."""
    free = states.available()
    if count > free:
        raise InputError(
            f"an estimate for {count * BLOCK_TOKENS} tokens needs as much memory as they will, and "
            f"there is room for {free * BLOCK_TOKENS}; wait for running requests or give the "
            "engine more."
        )
    states.make_room(count)
    blocks = states.pool.allocate(count)
    for block in blocks:
        states.pool.bytes(block).zero_()
    return blocks


def _step_seconds(
    states: States, blocks: list[int], start: int, tokens: int, clock: Callable[[], float]
) -> float:
    """Seconds of a step of so many tokens at `start`, on blank entries before it."""
    state, model = states.model.new_state(states.pool), states.model
    state.replay(blocks, start)
    ids_T = torch.arange(tokens) % model.config.vocab_size
    begin = clock()
    model.logits(model(ids_T, [tokens], [state])[-1:])
    seconds = clock() - begin
    state.release()
    return seconds
