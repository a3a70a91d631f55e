"""The evaluation's own judges, on answers whose worth is known."""

import random

import pytest

from dougong.train.data.sample import is_reserved
from dougong.train.data.stories import pair_is_reserved
from dougong.train.evaluate import TASKS, needle_task, story_task, sum_task


@pytest.mark.parametrize("name", TASKS)
def test_silence_is_never_right(name: str) -> None:
    for seed in range(20):
        assert not TASKS[name](random.Random(seed)).right("", True)


@pytest.mark.parametrize("thinking", [False, True])
def test_only_the_right_sum_counts(thinking: bool) -> None:
    for seed in range(50):
        task = sum_task(random.Random(seed), thinking=thinking, limit=100)
        a, sign, b = task.turn.question.removeprefix("What is ").rstrip("?").split()
        assert is_reserved("sum", a, sign, b)
        result = int(a) + int(b) if sign == "+" else int(a) - int(b)
        assert task.right(f"{a} {sign} {b} = {result}.", True)
        assert not task.right(f"{a} {sign} {b} = {result}.", False)
        assert not task.right(f"{a} {sign} {b} = {result + 1}.", True)
        assert (task.turn.thinking is not None) == thinking


def test_story_needs_both_words_an_end_and_some_length() -> None:
    for seed in range(50):
        task = story_task(random.Random(seed))
        *_, animal, _, _, thing = task.turn.question.rstrip(".").split()
        assert pair_is_reserved(animal, thing)
        filler = "and then " * 20
        assert task.right(f"The {animal} {filler}found the {thing}.", True)
        assert not task.right(f"The {animal} {filler}found the {thing}.", False)
        assert not task.right(f"The {animal} found the {thing}.", True)
        assert not task.right(f"The {animal} {filler}found nothing.", True)
        assert not task.right(f"It {filler}found the {thing}.", True)


def test_hidden_number_counts_to_the_letter() -> None:
    for seed in range(50):
        task = needle_task(random.Random(seed), 3)
        assert task.right(task.turn.answer, True)
        assert not task.right(task.turn.answer.replace(" is ", " was "), True)
        assert task.turn.question.count(" is ") >= 4  # three numbers and the question
