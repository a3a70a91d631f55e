"""Problems of other people: generators and verifiers of `reasoning-gym` (Apache-2.0).

Nothing of it is trained on. Its wording is its own, so this also shows how far a skill reaches
beyond the phrasings that it was learnt in.
"""

from __future__ import annotations

import importlib
import re
from typing import Any

from dougong.chat.completion import parse
from dougong.chat.prompt import encode_conversation
from dougong.train.evaluation.answering import Question
from dougong.train.evaluation.subject import LeftOutError, Subject
from dougong.train.evaluation.tasks import share_of

ASKED, QUICK_ASKED = 25, 4  # of each problem, in each mode
ANSWER_TOKENS = 160
PROBLEMS: dict[str, tuple[str, dict[str, int]]] = {
    "sum of 2, 1 digit": ("chain_sum", {"min_terms": 2, "max_terms": 2, "max_digits": 1}),
    "sum of 2, 2 digits": (
        "chain_sum", {"min_terms": 2, "max_terms": 2, "min_digits": 2, "max_digits": 2}),
    "sum of 3, 1 digit": ("chain_sum", {"min_terms": 3, "max_terms": 3, "max_digits": 1}),
    "product, 1 digit": ("products", {"max_digits": 1}),
    "GSM-Symbolic": ("gsm_symbolic", {}),
    "leg counting": ("leg_counting", {}),
    "family relationships": ("family_relationships", {}),
    "word spelled backward": ("spell_backward", {}),
}  # fmt: skip
NUMBER = re.compile(r"-?\d+")


def gym_suite(subject: Subject) -> dict[str, Any]:
    """Shares of right answers by problem, with and without thinking.

    Keys of a kind: kind, thinking, asked, right, share, low, high.
    """
    try:
        library = importlib.import_module("reasoning_gym")
    except ImportError:
        raise LeftOutError(
            "the gym suite needs reasoning-gym: pip install 'dougong[eval]' brings it."
        ) from None
    count = QUICK_ASKED if subject.quick else ASKED
    kinds = []
    for name, (dataset_name, options) in PROBLEMS.items():
        dataset = library.create_dataset(dataset_name, size=count, seed=subject.seed, **options)
        for thinking in (False, True):
            right = _right(subject, name, dataset, list(dataset), thinking)
            kinds.append({"kind": name, "thinking": thinking, **share_of(right, count)})
    return {"kinds": kinds}


def _right(subject: Subject, name: str, dataset: Any, entries: list[Any], thinking: bool) -> int:
    prompts = [
        encode_conversation(
            subject.tokenizer, [{"role": "user", "content": entry["question"]}], thinking=thinking
        )
        for entry in entries
    ]
    questions = [Question(ids=prompt, max_tokens=ANSWER_TOKENS) for prompt in prompts]
    right = 0
    for entry, reply in zip(entries, subject.answers(f"gym: {name}", questions), strict=True):
        content = parse(subject.tokenizer.decode(reply.ids), thinking=thinking).content
        final = final_answer(content, entry["answer"])
        right += reply.ended and float(dataset.score_answer(final, entry)) == 1.0
    return right


def final_answer(content: str, expected: str) -> str:
    """What goes to the verifier: the last number where one is expected, else the last word."""
    if NUMBER.fullmatch(expected):
        numbers: list[str] = NUMBER.findall(content)
        return numbers[-1] if numbers else ""
    words = content.split()
    return words[-1].strip(".,!?\"'") if words else ""
