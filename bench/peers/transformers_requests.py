"""transformers answering requests one after another, on a checkpoint folder.

    python bench/peers/transformers_requests.py FOLDER --prompts 50,400,4000 --new-tokens 128

Prompts of random tokens are read in chunks of 1,024, where transformers is fastest; answers are
greedy. Prints one JSON object: seconds, tokens_per_s (tokens written over all of that time).
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import torch
from torch import Tensor
from transformers import DeepseekV4ForCausalLM
from transformers.utils import logging

CHUNK = 1024


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--prompts", required=True, help="tokens of each, by commas")
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    dtype = getattr(torch, options.dtype)
    model = DeepseekV4ForCausalLM.from_pretrained(options.folder, dtype=dtype).eval()
    lengths = [int(word) for word in options.prompts.split(",")]
    generator = torch.Generator().manual_seed(0)
    vocab_size = model.config.vocab_size

    def answer(ids: Tensor, new_tokens: int) -> None:
        memory: Any = None
        for part in ids.split(CHUNK, dim=1):
            out = model(part, past_key_values=memory, use_cache=True, logits_to_keep=1)
            memory = out.past_key_values
        for _ in range(new_tokens - 1):
            token = out.logits[:, -1:].argmax(-1)
            out = model(token, past_key_values=memory, use_cache=True, logits_to_keep=1)

    prompts = [torch.randint(2, vocab_size, (1, n), generator=generator) for n in lengths]
    with torch.inference_mode():
        answer(prompts[0][:, :64], 4)
        began = time.perf_counter()
        for prompt in prompts:
            answer(prompt, options.new_tokens)
        seconds = time.perf_counter() - began
    written = options.new_tokens * len(lengths)
    print(json.dumps({"seconds": seconds, "tokens_per_s": written / seconds}))


if __name__ == "__main__":
    main()
