"""Running text: bits per character beside xz and a 3-gram, and the loss by position.

The texts in the package are held out of training: the first twenty chapters of Moby-Dick (Herman
Melville, 1851; public domain) and the State of the Union speeches of 2002, 2012 and 2018 (US
government, public domain), both from the npm packages of @stdlib, dedicated to the public domain
(PDDL and CC0). Generated stories are about pairs of words that training never puts together.
"""

from __future__ import annotations

import math
from functools import cache
from importlib import resources
from typing import Any

from dougong.train.data.corpus import load_corpus
from dougong.train.data.extract import plain
from dougong.train.data.families import FAMILIES
from dougong.train.data.sources import SOURCES, is_here
from dougong.train.evaluation.baselines import trigram_bits_per_character, xz_bits_per_character
from dougong.train.evaluation.reading import losses_of_stream, losses_of_windows
from dougong.train.evaluation.subject import Subject

WINDOW_TOKENS = 1024  # how much context a token of `text` has at most
QUICK_CHARACTERS = 40_000
SOURCE_CHARACTERS = 20_000  # read of the held-out documents of one source
STORIES = 150
LONGEST = 8192  # tokens of a window of `position`
WINDOWS, QUICK_WINDOWS = 24, 5
FIRST_EDGE = 16


@cache
def held_out_text(name: str) -> str:
    """A text of the package, "novel" or "speeches": sentences with single spaces between."""
    path = resources.files("dougong").joinpath(f"data/evaluation/{name}.txt")
    return " ".join(path.read_text("ascii").splitlines())


def text_suite(subject: Subject) -> dict[str, Any]:
    """Bits per character by domain: what the package holds, and what `dougong train` fetched.

    Keys of a domain: name, characters, tokens, nats_per_token, bits_per_character, xz, trigram
    (bits per character of the baselines on the same text).
    """
    texts = {name: [held_out_text(name)] for name in ("novel", "speeches")}
    texts["stories"] = _stories(subject)
    if not subject.quick:
        texts |= _held_out_documents(subject)
    domains = []
    for i, (name, parts) in enumerate(texts.items()):
        subject.say("held-out text", i, len(texts))
        domains.append({"name": name, **_bits(subject, parts)})
    return {"window_tokens": WINDOW_TOKENS, "domains": domains}


def _stories(subject: Subject) -> list[str]:
    rng = subject.rng("text", "stories")
    tasks = [FAMILIES["stories"](rng, held_out=True) for _ in range(STORIES)]
    return [str(task.answer["content"]) for task in tasks]


def _held_out_documents(subject: Subject) -> dict[str, list[str]]:
    """By source the beginnings of held-out documents of those packages that were fetched."""
    here = [
        name
        for name, source in SOURCES.items()
        if source.use != "evaluation" and is_here(source, subject.folder)
    ]
    found = {}
    for name, documents in load_corpus(subject.folder, here).held_out.items():
        room = SOURCE_CHARACTERS // len(documents)
        found[f"held-out {name}"] = [plain(text[:room]) for _, text in documents if text.strip()]
    return found


def _bits(subject: Subject, parts: list[str]) -> dict[str, Any]:
    """Figures of one domain: each part is a document of its own."""
    if subject.quick:
        parts = [part[: QUICK_CHARACTERS // len(parts)] for part in parts]
    tokenizer, size = subject.tokenizer, min(WINDOW_TOKENS, subject.context_tokens) - 1
    windows = []
    for part in parts:
        ids = tokenizer.encode(part, special=False)
        windows += [[tokenizer.bos_id, *ids[low : low + size]] for low in range(0, len(ids), size)]
    losses = losses_of_windows(subject.model, windows)
    nats, tokens = sum(float(loss.sum()) for loss in losses), sum(map(len, losses))
    text = " ".join(parts)
    characters = sum(map(len, parts))
    return {
        "characters": characters,
        "tokens": tokens,
        "nats_per_token": nats / tokens,
        "bits_per_character": nats / math.log(2) / characters,
        "xz": xz_bits_per_character(text),
        "trigram": trigram_bits_per_character(text),
    }


def position_suite(subject: Subject) -> dict[str, Any]:
    """Mean loss by position on the held-out novel; each window begins somewhere else in it.

    Keys: windows, tokens (of a window), buckets: first and last position, nats per token, and the
    standard error of that mean over windows. `rise`: the last bucket minus that of positions 128 to
    255; above 0 a long context does harm.
    """
    tokenizer = subject.tokenizer
    ids = tokenizer.encode(held_out_text("novel"), special=False)
    size = min(LONGEST, subject.context_tokens, len(ids))
    count = QUICK_WINDOWS if subject.quick else WINDOWS
    starts = [(len(ids) - size) * i // (count - 1) for i in range(count)]
    losses = []
    for i, start in enumerate(starts):
        subject.say("loss by position", i, count)
        window = [tokenizer.bos_id, *ids[start : start + size]]
        losses.append(losses_of_stream(subject.model, window[:size]))
    buckets = []
    low, high = 0, FIRST_EDGE
    while low < size - 1:
        means = [float(loss[low:high].mean()) for loss in losses]
        mean = sum(means) / count
        spread = math.sqrt(sum((one - mean) ** 2 for one in means) / (count - 1) / count)
        last = min(high, size - 1) - 1
        buckets.append({"first": low, "last": last, "nats": mean, "standard_error": spread})
        low, high = high, high * 2
    figures = {bucket["first"]: bucket["nats"] for bucket in buckets}
    rise = buckets[-1]["nats"] - figures[128] if 128 in figures else None
    return {"windows": count, "tokens": size, "buckets": buckets, "rise": rise}
