"""llama.cpp writing many answers at once; run by the interpreter that has llama-cpp-python.

    PYTHON bench/peers/llama_cpp_batch.py MODEL.gguf --prompts 50,400,4000 --new-tokens 128

Prompts of random tokens are read 2,048 tokens a call, one after the other; then every call decodes
one token of each sequence, greedily, as parallel sequences of one batch, each with a memory of its
own (faster here than one memory for all). Prints one JSON object: seconds, tokens_per_s (tokens
written over all of that time), decode_tokens_per_s. Written against llama-cpp-python 0.3.36.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import time
from typing import Any

import llama_cpp
import numpy as np

BATCH, ROOM = 2048, 256  # tokens a call; a memory's size is a multiple of ROOM


class Sequences:
    """A loaded model with a memory for each of `count` sequences of up to `longest` tokens."""

    def __init__(self, path: str, count: int, longest: int, threads: int) -> None:
        llama_cpp.llama_backend_init()
        self.silent = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self.silent, ctypes.c_void_p(0))
        self.model = llama_cpp.llama_model_load_from_file(
            path.encode(), llama_cpp.llama_model_default_params()
        )
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx, settings.n_batch = -(-longest // ROOM) * ROOM * count, BATCH
        settings.n_seq_max, settings.kv_unified = count, False
        settings.n_threads = settings.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(self.model, settings)
        if not self.context:
            raise SystemExit("llama.cpp made no context of that size")
        vocabulary = llama_cpp.llama_model_get_vocab(self.model)
        self.vocab_size = llama_cpp.llama_vocab_n_tokens(vocabulary) or 32000

    def call(self, rows: list[tuple[int, int, int, bool]]) -> None:
        """One forward pass over rows of (token, position, sequence, whether logits are wanted)."""
        batch = llama_cpp.llama_batch_init(len(rows), 0, 1)
        batch.n_tokens = len(rows)
        for i, (token, position, sequence, wanted) in enumerate(rows):
            batch.token[i], batch.pos[i], batch.logits[i] = token, position, wanted
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence
        status = llama_cpp.llama_decode(self.context, batch)
        llama_cpp.llama_batch_free(batch)
        if status:
            raise SystemExit(f"llama_decode returned {status}")

    def likeliest(self, row: int) -> int:
        """The likeliest next token of a row whose logits were wanted."""
        logits = llama_cpp.llama_get_logits_ith(self.context, row)
        return int(np.ctypeslib.as_array(logits, (self.vocab_size,)).argmax())

    def write(self, prompts: list[Any], new_tokens: int) -> tuple[float, float]:
        """Seconds in which all prompts are read, and all answers written, from empty memories."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)
        began, last = time.perf_counter(), []
        for sequence, prompt in enumerate(prompts):
            for at in range(0, len(prompt), BATCH):
                part = prompt[at : at + BATCH]
                final = at + len(part) == len(prompt)
                self.call([
                    (int(token), at + i, sequence, final and i == len(part) - 1)
                    for i, token in enumerate(part)
                ])  # fmt: skip
            last.append(self.likeliest(len(part) - 1))
        read_s = time.perf_counter() - began
        for step in range(new_tokens - 1):
            self.call([
                (token, len(prompt) + step, sequence, True)
                for sequence, (token, prompt) in enumerate(zip(last, prompts, strict=True))
            ])  # fmt: skip
            last = [self.likeliest(row) for row in range(len(prompts))]
        return read_s, time.perf_counter() - began - read_s


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--prompts", required=True, help="tokens of each, by commas")
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    lengths = [int(word) for word in options.prompts.split(",")]
    longest = max(lengths) + options.new_tokens
    sequences = Sequences(options.model, len(lengths), longest, options.threads)
    rng = np.random.default_rng(0)
    prompts = [rng.integers(2, sequences.vocab_size, length) for length in lengths]
    sequences.write([prompt[:64] for prompt in prompts[:2]], 4)
    read_s, written_s = sequences.write(prompts, options.new_tokens)
    written = options.new_tokens * len(lengths)
    print(json.dumps({
        "seconds": read_s + written_s, "tokens_per_s": written / (read_s + written_s),
        "decode_tokens_per_s": (written - len(lengths)) / written_s,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
