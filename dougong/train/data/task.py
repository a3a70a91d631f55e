"""What one training sample is, how its answer is judged, and what is kept out of training.

Every generator of this package is a pure function `generate(rng, *, held_out=False) -> Task`. In
training it is called as it stands; `dougong eval` calls it with `held_out=True` and gets tasks of
the same kind about names, numbers, operands, tools and pairs of words that training never shows.
Generators of one family are gathered in a `Family`; `families.py` lists them all.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from dougong.chat import special
from dougong.chat.completion import Completion, parse
from dougong.chat.prompt import render

Message = dict[str, Any]
"""A message in the chat API's form: role, content, reasoning_content, tool_calls ..."""

Check = Callable[[Completion], bool]
"""Whether a parsed answer is right; pure, and never raises."""

Item = TypeVar("Item")

RESERVED_ONE_IN = 10


@dataclass(frozen=True, kw_only=True)
class Task:
    """A conversation up to a question, the answer that training shows, and the judge of answers.

    messages:      the prompt, from the system message to the last question or tool result; answers
                   among them are trained on too.
    answer:        the assistant's message; with `reasoning_content` the task is asked thinking.
    judge:         tells whether an answer is right; use `check`.
    tools:         functions in OpenAI's form.  response_format: a JSON schema, or None.
    family, kind:  "arithmetic", "addition", put there by the `Family` that drew the task.
    """

    messages: tuple[Message, ...]
    answer: Message
    judge: Check
    tools: tuple[Message, ...] = ()
    response_format: Any = None
    family: str = ""
    kind: str = ""

    @property
    def thinking(self) -> bool:
        """Whether the prompt ends with <think>."""
        return "reasoning_content" in self.answer

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments of `render` and `encode_conversation` beside the messages."""
        return {
            "tools": list(self.tools),
            "response_format": self.response_format,
            "thinking": self.thinking,
        }

    @property
    def expected(self) -> str:
        """The text that the model should write: reasoning, markup, answer; no end of sentence.

        `task.check(task.expected)` is always true.
        """
        prompt = render(self.messages, **self.options)
        whole = render((*self.messages, self.answer), **self.options)
        return whole[len(prompt) :].removesuffix(special.EOS)

    def check(self, text: str) -> bool:
        """Whether the text that a model wrote behind the prompt answers the question.

        Args:    text: decoded ids up to the end of sentence, which may be left out; special
                 strings (`</think>`, tool markup) included. An answer that did not end by itself
                 is not to be passed: it is wrong.
        """
        completion = parse(text, thinking=self.thinking, tools=bool(self.tools))
        return not completion.errors and self.judge(completion)


@dataclass(frozen=True)
class Text:
    """Running text: trained on throughout, asked nothing."""

    text: str


Sample = Task | Text


class Generator(Protocol):
    """A family, or one kind of task in it."""

    def __call__(self, rng: random.Random, *, held_out: bool = False) -> Task:
        """Draws one task; `held_out`: of what is kept out of training."""


@dataclass(frozen=True)
class Family:
    """Kinds of task that go together, each with its odds; itself a generator."""

    name: str
    kinds: Mapping[str, tuple[Generator, float]]

    def __call__(self, rng: random.Random, *, held_out: bool = False) -> Task:
        """Draws a task of a kind drawn by its odds."""
        odds = [share for _, share in self.kinds.values()]
        return self.draw(rng.choices(list(self.kinds), odds)[0], rng, held_out=held_out)

    def draw(self, kind: str, rng: random.Random, *, held_out: bool = False) -> Task:
        """Draws a task of this kind, labelled with family and kind."""
        task = self.kinds[kind][0](rng, held_out=held_out)
        return replace(task, family=self.name, kind=kind)


def reserved(*parts: object) -> bool:
    """Tells whether this name, number, pair of operands or of words is kept for evaluation.

    One in ten, by a hash of the parts' text, so training and evaluation agree without a list. The
    first part says what it is: `reserved("name", "Otto")`, `reserved("sum", 17, 25)`.
    """
    key = "|".join(str(part) for part in parts)
    return zlib.crc32(key.encode()) % RESERVED_ONE_IN == 0


def reserved_form(role: str, subject: object, form: str, forms: Sequence[str]) -> bool:
    """Whether this way to ask for `subject` is kept for evaluation.

    What must be taught to be known cannot itself be kept; of several ways to ask, one always stays
    in training.
    """
    if not reserved(role, subject, form):
        return False
    return not all(reserved(role, subject, other) for other in forms)


def part_of(role: str, items: Sequence[Item], held_out: bool) -> list[Item]:
    """The items that training may show, or with `held_out` those that it may not."""
    return [item for item in items if reserved(role, item) == held_out]


def ask(
    question: str,
    answer: str,
    thinking: str | None = None,
    *,
    judge: Check | None = None,
    system: str = "",
) -> Task:
    """A task of one question; without a judge the answer must be the given one to the letter."""
    reply: Message = {"role": "assistant", "content": answer}
    if thinking is not None:
        reply["reasoning_content"] = thinking
    opening = ({"role": "system", "content": system},) if system else ()
    return Task(
        messages=(*opening, {"role": "user", "content": question}),
        answer=reply,
        judge=judge or says(answer),
    )


def says(answer: str) -> Check:
    """The judge that wants this content, apart from white space at its ends."""
    return lambda completion: completion.content.strip() == answer.strip()
