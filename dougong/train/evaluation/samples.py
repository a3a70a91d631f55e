"""What it says to a few plain questions: nothing is scored, the card shows it."""

from __future__ import annotations

from typing import Any

from dougong.chat.completion import parse
from dougong.chat.prompt import encode_conversation
from dougong.model.sampling import SamplingParams
from dougong.train.evaluation.answering import Question
from dougong.train.evaluation.subject import Subject

MAX_TOKENS = 256
ASKED: tuple[tuple[str, bool, float], ...] = (  # question, thinking, temperature
    ("Write a story about a fox and a pencil.", False, 1.0),
    ("Write a story about an owl and an umbrella.", False, 0.0),
    ("Hello!", False, 0.0),
    ("Who are you?", False, 0.0),
    ("What is 147 + 238?", True, 0.0),
    ("Tom has 12 apples and buys 7 more. How many apples does Tom have?", True, 0.0),
    ("Copy this list: lamp, key, drum, apple", False, 0.0),
    ("Carl has a red kite. Iris has a blue cup. What does Iris have?", False, 0.0),
    ("Name three animals.", False, 0.0),
    ("What does harbor mean?", False, 0.0),
)


def samples_suite(subject: Subject) -> dict[str, Any]:
    """Keys: answers, each with question, thinking, temperature, seed, reasoning, text, ended."""
    questions = []
    for question, thinking, temperature in ASKED:
        messages = [{"role": "user", "content": question}]
        ids = encode_conversation(subject.tokenizer, messages, thinking=thinking)
        params = SamplingParams(temperature=temperature, seed=subject.seed)
        questions.append(Question(ids=ids, max_tokens=MAX_TOKENS, params=params))
    answers = []
    for asked, reply in zip(ASKED, subject.answers("samples", questions), strict=True):
        question, thinking, temperature = asked
        said = parse(subject.tokenizer.decode(reply.ids), thinking=thinking)
        answers.append({
            "question": question, "thinking": thinking, "temperature": temperature,
            "seed": subject.seed, "reasoning": said.reasoning, "text": said.content,
            "ended": reply.ended,
        })  # fmt: skip
    return {"answers": answers}


def quoted(figures: dict[str, Any]) -> str:
    """The answers as Markdown quotes."""
    parts = []
    for one in figures["answers"]:
        how = "greedy" if one["temperature"] == 0 else f"drawn, seed {one['seed']}"
        how += ", thinking" if one["thinking"] else ""
        lines = [f"**{one['question']}** ({how})"]
        if one["reasoning"]:
            lines.append(f"*{' '.join(one['reasoning'].split())}*")
        lines += [line for line in one["text"].splitlines() if line] or ["(nothing)"]
        if not one["ended"]:
            lines[-1] += " ..."
        parts.append("\n>\n".join(f"> {line}" for line in lines))
    return "\n\n".join(parts) + "\n"
