"""What a trained model can do: held-out text, stories, sums, copying and looking up.

Every task is one that training never saw: reserved word pairs and operands, reserved names,
held-out documents. Answers are greedy, so that the figures repeat.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from dougong.chat.prompt import encode_conversation
from dougong.chat.tokenizer import Tokenizer
from dougong.kernels.linear import weighted_cross_entropy
from dougong.model.transformer import Transformer
from dougong.train.data.arithmetic import addition_thought, subtraction_thought
from dougong.train.data.corpus import Corpus
from dougong.train.data.encode import encode_sample, messages_of
from dougong.train.data.mixture import pack
from dougong.train.data.retrieval import EVAL_NAMES, KINDS, hide_numbers, list_work, who_has_what
from dougong.train.data.sample import Sample, Turn, is_reserved
from dougong.train.data.stories import grammar, pair_is_reserved, story, with_article

PARALLEL = 24  # answers decoded side by side
MAX_ANSWER_TOKENS = 260


@dataclass(frozen=True)
class Task:
    """A question with a judge of the answer (its text, and whether it came to an end)."""

    turn: Turn
    right: Callable[[str, bool], bool]


def story_task(rng: random.Random) -> Task:
    """A story about a reserved pair of words: it must use both, end by itself, be a story."""
    words = grammar()
    pairs = [(a, o) for a in words["animals"] for o in words["objects"] if pair_is_reserved(a, o)]
    animal, thing = rng.choice(pairs)
    question = f"Write a story about {with_article(animal)} and {with_article(thing)}."

    def right(text: str, ended: bool) -> bool:
        tokens = text.lower().replace(".", " ").replace(",", " ").replace("!", " ").split()
        return ended and animal in tokens and thing in tokens and 40 <= len(tokens) <= 250

    return Task(Turn(question, ""), right)


def sum_task(rng: random.Random, *, thinking: bool, limit: int) -> Task:
    """A sum or difference of reserved operands below `limit`."""
    while True:
        sign, a, b = rng.choice("+-"), rng.randrange(limit), rng.randrange(limit)
        if (sign == "+" or a >= b) and is_reserved("sum", a, sign, b):
            break
    result = a + b if sign == "+" else a - b
    work = addition_thought(a, b) if sign == "+" else subtraction_thought(a, b)
    turn = Turn(f"What is {a} {sign} {b}?", "", work if thinking else None)
    return Task(turn, lambda text, ended: ended and text.endswith(f"= {result}."))


def exact_task(sample: Sample) -> Task:
    """The answer must be the sample's own, to the letter."""
    turn = sample.turns[0]
    return Task(turn, lambda text, ended: ended and text == turn.answer)


def needle_task(rng: random.Random, count: int, *, new_names: bool = False) -> Task:
    """One of `count` numbers hidden in a story; `new_names`: names that training never saw."""
    filler = [line.rstrip(".") + "." for line in story(rng).turns[0].answer.split(". ")]
    filler = [line for line in filler if '"' not in line]
    known = grammar()["boys"] + grammar()["girls"]
    names = rng.sample(EVAL_NAMES if new_names else known, count)
    return exact_task(hide_numbers(rng, names, filler, rng.choice(KINDS)))


TASKS: dict[str, Callable[[random.Random], Task]] = {
    "story with both words": story_task,
    "sums below 20": lambda rng: sum_task(rng, thinking=False, limit=20),
    "sums below 100, thinking": lambda rng: sum_task(rng, thinking=True, limit=100),
    "a number hidden in a story": lambda rng: needle_task(rng, 1),
    "one of three numbers in a story": lambda rng: needle_task(rng, 3),
    "a number of someone with a new name": lambda rng: needle_task(rng, 1, new_names=True),
    "list copied, reversed, indexed": lambda rng: exact_task(list_work(rng)),
    "who has what": lambda rng: exact_task(who_has_what(rng)),
}


@torch.inference_mode()
def answers(
    model: Transformer, tokenizer: Tokenizer, turns: list[Turn]
) -> Iterator[tuple[str, bool]]:
    """Greedy answers (behind the reasoning, if there is any) and whether each came to an end."""
    for low in range(0, len(turns), PARALLEL):
        group = turns[low : low + PARALLEL]
        prompts = [
            encode_conversation(
                tokenizer,
                messages_of(Sample(turns=(turn,)))[:-1],
                thinking=turn.thinking is not None,
            )
            for turn in group
        ]
        for ids in _decode(model, prompts, tokenizer.eos_id):
            ended = ids[-1] == tokenizer.eos_id
            text = tokenizer.decode(ids[:-1] if ended else ids)
            yield text.rsplit("</think>", 1)[-1], ended


def _decode(model: Transformer, prompts: list[list[int]], eos_id: int) -> list[list[int]]:
    """Continues all prompts side by side; a request leaves the batch when it ends."""
    states = [model.new_state() for _ in prompts]
    found: list[list[int]] = [[] for _ in prompts]
    feed = dict(enumerate(prompts))
    while feed:
        lengths = [len(ids) for ids in feed.values()]
        flat = torch.tensor([token for ids in feed.values() for token in ids])
        streams_TSD = model(flat, lengths, [states[i] for i in feed])
        ends = torch.tensor(lengths).cumsum(0) - 1
        best = model.logits(streams_TSD[ends]).argmax(-1).tolist()
        for i, token in zip(list(feed), best, strict=True):
            found[i].append(token)
            feed[i] = [token]
            if token == eos_id or len(found[i]) >= MAX_ANSWER_TOKENS:
                del feed[i]
    return found


@torch.inference_mode()
def bits_per_character(
    model: Transformer, tokenizer: Tokenizer, texts: list[str]
) -> tuple[float, float]:
    """Mean loss of running texts in bits per character, and in nats per token."""
    nats, characters, tokens = 0.0, 0, 0
    for text in texts:
        batch = pack([encode_sample(Sample(text=text), tokenizer)])
        logits = model.logits(model(batch.ids_T, batch.lengths))
        count = int(batch.weight_T.sum())
        nats += count * weighted_cross_entropy(logits, batch.target_T, batch.weight_T).item()
        characters, tokens = characters + len(text), tokens + count
    return nats / math.log(2) / characters, nats / tokens


def evaluate(
    model: Transformer, tokenizer: Tokenizer, corpus: Corpus, *, count: int = 100, seed: int = 0
) -> dict[str, Any]:
    """Shares of right answers by task, from 0 to 1, and the loss on held-out speeches."""
    results: dict[str, Any] = {"tasks": {}, "count": count}
    for name, make in TASKS.items():
        rng = random.Random(f"{seed}/evaluate/{name}")
        tasks = [make(rng) for _ in range(count)]
        replies = answers(model, tokenizer, [task.turn for task in tasks])
        right = [
            task.right(text, ended) for task, (text, ended) in zip(tasks, replies, strict=True)
        ]
        results["tasks"][name] = sum(right) / count
    if corpus.held_out:
        texts = random.Random(seed).sample(corpus.held_out, min(count, len(corpus.held_out)))
        bits, nats = bits_per_character(model, tokenizer, texts)
        results["held-out speeches"] = {"bits_per_character": bits, "nats_per_token": nats}
    return results
