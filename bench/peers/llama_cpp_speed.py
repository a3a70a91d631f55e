"""llama.cpp's prefill and decode on a GGUF file; run by the interpreter that has llama-cpp-python.

    PYTHON bench/peers/llama_cpp_speed.py MODEL.gguf --contexts 512,8192 --threads 2

Batch 1, 2,048 tokens a call, logits of the last token only, as llama.cpp is fastest. Prints one
JSON object: figures (context, prefill_tokens_per_s, decode_tokens_per_s). Written against
llama-cpp-python 0.3.36 (its low-level interface).
"""

from __future__ import annotations

import argparse
import ctypes
import json
import time
from statistics import median
from typing import Any

import llama_cpp
import numpy as np

BATCH, STEPS, WARM_UP = 2048, 40, 4
SHORT, SHORT_RUNS = 2048, 3  # of a prefill up to that long the best of so many counts


class Session:
    """A loaded model with room for `capacity` tokens."""

    def __init__(self, path: str, capacity: int, threads: int) -> None:
        llama_cpp.llama_backend_init()
        self.silent = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self.silent, ctypes.c_void_p(0))
        self.model = llama_cpp.llama_model_load_from_file(
            path.encode(), llama_cpp.llama_model_default_params()
        )
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx, settings.n_batch = capacity, BATCH
        settings.n_threads = settings.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(self.model, settings)
        vocabulary = llama_cpp.llama_model_get_vocab(self.model)
        self.vocab_size = llama_cpp.llama_vocab_n_tokens(vocabulary) or 32000

    def feed(self, ids: Any, start: int) -> float:
        """Seconds of one call with `ids` at positions start, start + 1, ..."""
        began = time.perf_counter()
        batch = llama_cpp.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i] = int(token), start + i
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
            batch.logits[i] = i == len(ids) - 1
        status = llama_cpp.llama_decode(self.context, batch)
        llama_cpp.llama_batch_free(batch)
        llama_cpp.llama_get_logits_ith(self.context, -1)  # waits until they are there
        if status:
            raise SystemExit(f"llama_decode returned {status} at position {start}")
        return time.perf_counter() - began

    def prefill(self, ids: Any) -> float:
        """Seconds from an empty memory on."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)
        return sum(self.feed(ids[at : at + BATCH], at) for at in range(0, len(ids), BATCH))


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--contexts", default="512,8192")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    contexts = [int(word) for word in options.contexts.split(",")]
    session = Session(options.model, max(contexts) + 512, options.threads)
    ids = np.random.default_rng(0).integers(2, session.vocab_size, max(contexts) + WARM_UP + STEPS)
    session.prefill(ids[:64])
    figures = []
    for context in contexts:
        runs = SHORT_RUNS if context <= SHORT else 1
        prefill_s = min(session.prefill(ids[:context]) for _ in range(runs))
        steps = [
            session.feed(ids[at : at + 1], at) for at in range(context, context + WARM_UP + STEPS)
        ]
        figures.append({
            "context": context,
            "prefill_tokens_per_s": context / prefill_s,
            "decode_tokens_per_s": 1 / median(steps[WARM_UP:]),
        })  # fmt: skip
    print(json.dumps({"figures": figures}))


if __name__ == "__main__":
    main()
