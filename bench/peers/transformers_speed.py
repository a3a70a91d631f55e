"""transformers' prefill and decode on a checkpoint folder, batch 1.

    python bench/peers/transformers_speed.py FOLDER --dtype float32 --contexts 512,8192 --threads 2

Prefill in chunks of 1,024 tokens, where transformers is fastest. Prints one JSON object: figures
(context, prefill_tokens_per_s, decode_tokens_per_s).
"""

from __future__ import annotations

import argparse
import json
import time
from statistics import median
from typing import Any

import torch
from transformers import DeepseekV4ForCausalLM
from transformers.utils import logging

CHUNK, STEPS, WARM_UP = 1024, 20, 4
SHORT, SHORT_RUNS = 2048, 3  # of a prefill up to that long the best of so many counts


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--contexts", default="512,8192")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    dtype = getattr(torch, options.dtype)
    model = DeepseekV4ForCausalLM.from_pretrained(options.folder, dtype=dtype).eval()
    contexts = [int(word) for word in options.contexts.split(",")]
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(2, 32000, (1, max(contexts) + WARM_UP + STEPS), generator=generator)

    def feed(low: int, high: int, memory: Any) -> Any:
        out = model(ids[:, low:high], past_key_values=memory, use_cache=True, logits_to_keep=1)
        return out.past_key_values

    def prefill(context: int) -> tuple[float, Any]:
        memory, start = None, time.perf_counter()
        for low in range(0, context, CHUNK):
            memory = feed(low, min(low + CHUNK, context), memory)
        return time.perf_counter() - start, memory

    figures = []
    with torch.inference_mode():
        prefill(64)
        for context in contexts:
            runs = [prefill(context) for _ in range(SHORT_RUNS if context <= SHORT else 1)]
            memory, steps = runs[-1][1], []
            for at in range(context, context + WARM_UP + STEPS):
                start = time.perf_counter()
                memory = feed(at, at + 1, memory)
                steps.append(time.perf_counter() - start)
            figures.append({
                "context": context,
                "prefill_tokens_per_s": context / min(seconds for seconds, _ in runs),
                "decode_tokens_per_s": 1 / median(steps[WARM_UP:]),
            })  # fmt: skip
    print(json.dumps({"figures": figures}))


if __name__ == "__main__":
    main()
