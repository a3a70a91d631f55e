"""What `dougong bench model` measures: prefill, decode by operators, bytes held and read."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from dougong.cli.bench_kernels import stream_rate

if TYPE_CHECKING:
    from dougong.kernels.cpu.costs import Costs
    from dougong.model.expert_cache import Traffic
    from dougong.model.state import RequestState
    from dougong.model.transformer import Transformer

Row = dict[str, Any]

WARM_UP_STEPS = 4
COSTED_STEPS = 12  # operator by operator, after those that are timed as a whole
SHORT_PREFILL, SHORT_RUNS = 2048, 3  # of a prefill up to that long the best of so many counts
PAGE_BYTES = 4096
FIRST_TOKENS = 8  # enough to set everything up where more would have to read experts from disk


def measure(model: Transformer, contexts: Sequence[int], steps: int) -> list[Row]:
    """Figures at each context, under the keys of `--json`."""
    import torch

    disk = None if model.expert_cache is None else model.expert_cache.disk_rate()
    count = max(contexts) + WARM_UP_STEPS + steps + COSTED_STEPS
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, model.config.vocab_size, (count,), generator=generator)
    with torch.inference_mode():
        timed = Timed(model, ids)
        timed.warm_up(max(contexts))
        return [_at(timed, context, steps, disk) for context in contexts]


class Timed:
    """A model and the tokens that it is timed on."""

    def __init__(self, model: Transformer, ids: Any) -> None:
        self.model, self.ids = model, ids

    def seconds(self, low: int, high: int, state: RequestState) -> float:
        """Of one pass over tokens low .. high - 1, with the logits of the last."""
        start = time.perf_counter()
        self.model.logits(self.model(self.ids[low:high], [high - low], [state])[-1:])
        return time.perf_counter() - start

    def prefill(self, tokens: int) -> tuple[float, RequestState]:
        """Seconds from an empty state on, and the state that it leads to."""
        from dougong.model.generation import pieces, prefill_tokens

        state = self.model.new_state()
        cut = pieces(tokens, [prefill_tokens(self.model)])
        return sum(self.seconds(low, high, state) for low, high in cut), state

    def decode(self, first: int, steps: int, state: RequestState) -> list[float]:
        """Seconds of each step."""
        return [self.seconds(at, at + 1, state) for at in range(first, first + steps)]

    def costs(self, first: int, steps: int, state: RequestState) -> list[Costs]:
        """What the native operators of each step cost."""
        from dougong.kernels.cpu.program import measuring

        found = []
        for at in range(first, first + steps):
            with measuring() as costs:
                self.seconds(at, at + 1, state)
            found.append(costs)
        return found

    def warm_up(self, tokens: int) -> None:
        """Touches every weight outside a budget once, then computes: pages, buffers, programs."""
        import numpy as np

        from dougong.model.generation import prefill_tokens
        from dougong.model.loading import stored_matrices

        budgeted = self.model.expert_cache is not None
        arrays = [
            array
            for name, matrix in stored_matrices(self.model)
            if not (budgeted and ".experts.w" in name)
            for array in (*matrix.data, *matrix.scale)
        ]
        # in the order of the files, which the system then reads ahead
        for array in sorted(arrays, key=lambda array: array.ctypes.data):
            array.reshape(-1).view(np.uint8)[::PAGE_BYTES].sum()
        first = FIRST_TOKENS if budgeted else prefill_tokens(self.model)
        self.seconds(0, min(first, tokens), self.model.new_state())


def _at(timed: Timed, context: int, steps: int, disk: float | None) -> Row:
    """The figures of one context."""
    cache = timed.model.expert_cache
    runs = SHORT_RUNS if context <= SHORT_PREFILL and cache is None else 1
    prefills = [timed.prefill(context)[0] for _ in range(runs - 1)]
    empty, resident = cache and cache.traffic, resident_bytes()
    seconds, state = timed.prefill(context)
    filled = cache and cache.traffic
    timed.decode(context, WARM_UP_STEPS, state)
    first, before = context + WARM_UP_STEPS, stream_rate()
    warm = cache and cache.traffic
    times = timed.decode(first, steps, state)
    row: Row = {
        "context": context,
        "prefill_tokens_per_s": context / min([*prefills, seconds]),
        "decode_tokens_per_s": 1 / median(times),
        "stream": max(before, stream_rate()),
    }
    if cache and empty and filled and warm and disk:
        row["prefill_bytes_read"] = filled.since(empty).bytes_read
        row |= from_disk(cache.traffic.since(warm), times, disk)
    row |= memory_of(timed.model, state, resident)
    return row | by_operator(timed.costs(first + steps, COSTED_STEPS, state), row)


def by_operator(costs: Sequence[Costs], row: Row) -> Row:
    """Of steps: the median seconds in each native operator, the bytes of weights that they read,
    and the least time of that over the time of a step; none on backend reference.
    """
    names = sorted({name for step in costs for name in step.seconds})
    nbytes = round(median(sum(step.weight_bytes.values()) for step in costs))
    return {
        "operators": {name: median(step.seconds[name] for step in costs) for name in names},
        "weight_bytes": nbytes or None,
        "of_limit": nbytes / row["stream"] * row["decode_tokens_per_s"] if nbytes else None,
    }


def from_disk(traffic: Traffic, times: list[float], disk: float) -> Row:
    """Figures of steps that had to wait for experts: a mean, because steps differ."""
    count, total_s = len(times), sum(times)
    computing_s = total_s - traffic.waited_s
    return {
        "decode_tokens_per_s": count / total_s,
        "bytes_read_per_token": traffic.bytes_read / count,
        "disk": disk,
        "waited_s_per_token": traffic.waited_s / count,
        "of_disk_limit": max(traffic.bytes_read / disk, computing_s) / total_s,
    }


def memory_of(model: Transformer, state: RequestState, resident: int | None) -> Row:
    """Bytes by which a state has grown, by which it was to grow, and the process with it."""
    from dougong.kernels.paged import BLOCK_TOKENS

    now = resident_bytes()
    whole_blocks = -(-state.length // BLOCK_TOKENS) * BLOCK_TOKENS
    return {
        "state_bytes": state.num_bytes - state.layout.ring_bytes,
        "state_bytes_predicted": round(whole_blocks * predicted_growth(model)),
        "resident_growth": None if now is None or resident is None else now - resident,
    }


def predicted_growth(model: Transformer) -> float:
    """Bytes a token by the formula of `dougong model inspect`, for the formats in use here."""
    import torch

    from dougong.plan.kv import IndexFormat, KVFormat, kv_bytes_per_token

    narrow, rounded = model.build.dtype == torch.bfloat16, model.build.rounded
    plain: KVFormat = "bf16" if narrow else "fp32"
    index: IndexFormat = "fp4" if rounded else "bf16" if narrow else "fp32"
    return kv_bytes_per_token(model.config, "fp8" if rounded and narrow else plain, index)


def resident_bytes() -> int | None:
    """Memory of this process that no file stands behind; None where the system does not tell."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return int(fields["RssAnon"].split()[0]) * 1024 if "RssAnon" in fields else None
