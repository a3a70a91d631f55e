"""Needles in a haystack: numbers of people, hidden in a long text, asked for by name.

Names and numbers are held out of training. The text is stories such as training hides needles in,
or the held-out novel, which is nothing like them. One needle stands at a chosen depth; two, four or
eight stand anywhere, and each is asked for. All questions about a text share one reading of it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dougong.chat.prompt import encode_conversation
from dougong.chat.tokenizer import Tokenizer
from dougong.train.data.needles import story_filler
from dougong.train.data.words import code, different, draw_names
from dougong.train.evaluation.answering import PARALLEL, Question, state_behind
from dougong.train.evaluation.language import held_out_text
from dougong.train.evaluation.subject import Subject
from dougong.train.evaluation.tasks import share_of

LENGTHS = (256, 512, 1024, 2048, 4096, 8192)
DEPTHS = tuple((i + 0.5) / 10 for i in range(10))
QUICK_DEPTHS = (0.05, 0.5, 0.95)
KEYS = (1, 2, 4, 8)
TEXTS, QUICK_TEXTS = {1: 1, 2: 4, 4: 3, 8: 2}, 1  # read at each length (and depth, for one key)
FILLERS = ("stories", "novel")
CHARACTERS_PER_TOKEN = 6  # more than a text has, so that enough of it is drawn
ANSWER_TOKENS = 32
TEMPLATE_TOKENS = 8  # tags around the question
NEEDLE, QUESTION = "The number of {} is {}.", "What is the number of {}?"


@dataclass(frozen=True)
class Haystack:
    """A text with needles: its sentences, and the number of each name."""

    text: str
    numbers: dict[str, str]

    def right(self, name: str, answer: str) -> bool:
        """Whether the answer gives this name's number and no other."""
        found = {number for number in self.numbers.values() if re.search(rf"\b{number}\b", answer)}
        return found == {self.numbers[name]}


def filler_of(rng: random.Random, filler: str, characters: int) -> Iterator[str]:
    """Sentences of stories, or of the novel from a random one on, at least so many characters."""
    if filler == "stories":
        yield from story_filler(rng, characters)
        return
    sentences = re.split(r"(?<=[.!?]) ", held_out_text("novel"))
    start = rng.randrange(len(sentences))
    yield from (*sentences[start:], *sentences[:start])


def make_haystack(
    rng: random.Random, tokenizer: Tokenizer, filler: str, length: int, keys: int,
    depth: float | None,
) -> Haystack:  # fmt: skip
    """Sentences with `keys` needles between them.

    Args:    filler: one of FILLERS. length: tokens of the whole prompt, not exceeded. depth: where
             a single needle stands, 0 at the beginning, 1 at the end; None: anywhere.
    """
    names = draw_names(rng, keys, held_out=True)
    numbers = dict(zip(names, different(code, rng, keys, held_out=True), strict=True))
    needles = [NEEDLE.format(name, number) for name, number in numbers.items()]
    fixed = " ".join([*needles, QUESTION.format(max(names, key=len))])
    room = length - TEMPLATE_TOKENS - len(tokenizer.encode(fixed, special=False))
    lines: list[str] = []
    ends = [0]  # characters up to the end of each line
    for line in filler_of(rng, filler, CHARACTERS_PER_TOKEN * length):
        room -= len(tokenizer.encode(f" {line}", special=False))
        if room < 0:
            break
        lines.append(line)
        ends.append(ends[-1] + len(line))
    gaps: list[int] = []
    if depth is not None:
        wanted = depth * ends[-1]
        gaps.append(min(range(len(ends)), key=lambda gap: abs(ends[gap] - wanted)))
    while len(gaps) < keys:
        gaps.append(rng.randrange(len(lines) + 1))
    for gap, needle in sorted(zip(gaps, needles, strict=True), reverse=True):
        lines.insert(gap, needle)
    return Haystack(" ".join(lines), numbers)


def needle_suite(subject: Subject) -> dict[str, Any]:
    """Shares of right answers by filler, number of keys, length of the prompt in tokens, and depth.

    Keys of a cell: filler, keys, length, depth (None: anywhere), asked, right, share, low, high.
    """
    lengths = [length for length in LENGTHS if length + ANSWER_TOKENS <= subject.context_tokens]
    if subject.quick:
        lengths = lengths[:4]
    plan = [
        (filler, keys, length, depth)
        for length in lengths
        for filler in FILLERS
        for keys in KEYS
        for depth in (_depths(subject) if keys == 1 else [None])
    ]
    cells = []
    for i, (filler, keys, length, depth) in enumerate(plan):
        subject.say("needles", i, len(plan))
        cell = {"filler": filler, "keys": keys, "length": length, "depth": depth}
        cells.append(cell | _cell(subject, *plan[i]))
    return {"cells": cells}


def _depths(subject: Subject) -> Sequence[float]:
    return QUICK_DEPTHS if subject.quick else DEPTHS


def _cell(
    subject: Subject, filler: str, keys: int, length: int, depth: float | None
) -> dict[str, Any]:
    rng = subject.rng("needle", filler, keys, length, depth)
    count = QUICK_TEXTS if subject.quick else TEXTS[keys]
    stacks = [
        make_haystack(rng, subject.tokenizer, filler, length, keys, depth) for _ in range(count)
    ]
    asked = [(stack, name) for stack in stacks for name in stack.numbers]
    questions = [q for stack in stacks for q in questions_about(subject, stack)]
    assert len(questions) <= PARALLEL
    replies = subject.answers("needles: answers", questions)
    right = sum(
        reply.ended and stack.right(name, subject.tokenizer.decode(reply.ids))
        for (stack, name), reply in zip(asked, replies, strict=True)
    )
    return share_of(right, len(asked))


def questions_about(subject: Subject, stack: Haystack) -> Iterator[Question]:
    """One question for each name, behind one reading of what their prompts have in common."""
    prompts = []
    for name in stack.numbers:
        message = {"role": "user", "content": f"{stack.text}\n{QUESTION.format(name)}"}
        prompts.append(encode_conversation(subject.tokenizer, [message]))
    shared = 0
    shortest = min(map(len, prompts))
    while shared < shortest - 1 and len({prompt[shared] for prompt in prompts}) == 1:
        shared += 1
    state = state_behind(subject.model, prompts[0][:shared])
    for prompt in prompts:
        yield Question(ids=prompt[shared:], max_tokens=ANSWER_TOKENS, state=state.fork())
