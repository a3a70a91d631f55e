"""Which experts should stay in memory? Policies on what the shipped model's router chose.

    python bench/expert_eviction.py [--record]

nano answers eight prompts; every pass through a layer is noted. Then the same passes meet slots for
an eighth to three quarters of all experts, without reading ahead. Figures: the share of used
experts that had to be read. `usage` is what `--memory` does, `optimal` looks into the future
(Belady, 1966) and bounds every policy. The figures depend on the weights alone, not on the machine.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np

PROMPTS = ("Tell me a story about a fox.", "Once upon a time", "What is 12 + 7?", "How are you?",
           "Tell me a story about a girl and a boat.", "Write a story about snow.",
           "What is 3 + 4 + 5?", "Tell me a story with a happy end.")  # fmt: skip
SHARES = (0.125, 0.25, 0.5, 0.75)
NEVER = 10**9

Pass = tuple[int, Any, int]  # layer, uses of each of its experts, tokens
Chooser = Callable[[list[int]], int]


def router_passes() -> tuple[list[Pass], int, int]:
    """What nano's router chose, and its layers and experts."""
    import torch

    import dougong
    from dougong.model.moe import RoutedExperts

    torch.set_num_threads(1)
    model = dougong.load("nano", backend="cpu", rounding="release", dtype="bfloat16")
    model.transformer.records_steps = False
    layers = [m for name, m in model.transformer.named_modules()
              if isinstance(m, RoutedExperts) and name.startswith("layers.")]  # fmt: skip
    count, passes = layers[0].w1.shape[0], []
    for number, layer in enumerate(layers):

        def noted(
            x: Any, w: Any, experts: Any, number: int = number, real: Any = layer.forward
        ) -> Any:
            uses = np.bincount(experts.flatten().numpy(), minlength=count)
            passes.append((number, uses, len(experts)))
            return real(x, w, experts)

        layer.forward = noted
    for seed, prompt in enumerate(PROMPTS):
        model.generate(prompt, max_tokens=150, seed=seed)
    return passes, len(layers), count


def read_share(policy: str, passes: list[Pass], layers: int, count: int, slots: int) -> float:
    """Of all uses of an expert, the part that found it missing."""
    from dougong.model.expert_usage import Usage

    usage = Usage(layers, count, top_k=2)
    last, following, draw = {}, next_uses(passes, count), np.random.default_rng(0)
    choose: dict[str, Chooser] = {
        "lru": lambda held: min(range(len(held)), key=lambda i: last[held[i]]),
        "random": lambda held: int(draw.integers(len(held))),
        "usage": lambda held: usage.least(np.array(held)),
        "optimal": lambda held: max(range(len(held)), key=lambda i: upcoming[held[i]]),
    }
    upcoming: dict[int, int] = {}
    present: set[int] = set()
    reads = uses = 0
    for at, (layer, counts, tokens) in enumerate(passes):
        usage.note(layer, counts, tokens)
        wanted = [layer * count + int(expert) for expert in np.flatnonzero(counts)]
        for number in wanted:
            if number not in present:
                reads += 1
                if len(present) == slots:
                    # a prompt can want more than fit: then those go that have computed already
                    rest = sorted(present.difference(wanted)) or sorted(present)
                    present.remove(rest[choose[policy](rest)])
                present.add(number)
            last[number], upcoming[number] = uses, following[at, number]
            uses += 1
    return reads / uses


def next_uses(passes: list[Pass], count: int) -> dict[tuple[int, int], int]:
    """(pass, expert) -> the pass that uses the expert next."""
    found, nearest = {}, {}
    for at in reversed(range(len(passes))):
        layer, counts, _ = passes[at]
        for expert in np.flatnonzero(counts):
            number = layer * count + int(expert)
            found[at, number] = nearest.get(number, NEVER)
            nearest[number] = at
    return found


def main() -> None:
    """Prints a table; appends records if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", action="store_true", help="append to bench/results")
    options = parser.parse_args()
    passes, layers, count = router_passes()
    policies = ("random", "lru", "usage", "optimal")
    print(f"{'slots':>8}" + "".join(f"{policy:>10}" for policy in policies))
    records = []
    for share in SHARES:
        slots = int(share * layers * count)
        values = [read_share(policy, passes, layers, count, slots) for policy in policies]
        print(f"{share:8.1%}" + "".join(f"{value:10.1%}" for value in values))
        records += [(f"eviction.nano.{policy}.slots_{slots}", value)
                    for policy, value in zip(policies, values, strict=True)]  # fmt: skip
    if options.record:
        from dougong.plan.records import append_records, make_record

        rows = [make_record(n, v, "1", "python bench/expert_eviction.py") for n, v in records]
        append_records(rows, "expert-eviction")


if __name__ == "__main__":
    main()
