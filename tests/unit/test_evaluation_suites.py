"""The evaluation on stand-in models whose scores are known without it."""

import math
import random
import re
import sys
from pathlib import Path

import pytest
import reasoning_gym
from support.stand_ins import StandIn, scripted

from dougong.chat.tokenizer import Tokenizer, load_tokenizer
from dougong.checkpoint.locate import SHIPPED_MODELS
from dougong.train.data.families import FAMILIES
from dougong.train.evaluation import gym, needle, tasks
from dougong.train.evaluation.language import held_out_text, position_suite, text_suite
from dougong.train.evaluation.reading import Readable
from dougong.train.evaluation.subject import Subject
from dougong.train.evaluation.suites import evaluate


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer(SHIPPED_MODELS / "nano")


def subject_of(model: Readable, tokenizer: Tokenizer, context_tokens: int = 2048) -> Subject:
    return Subject(
        model=model,
        tokenizer=tokenizer,
        context_tokens=context_tokens,
        folder=Path("no such folder"),
        quick=True,
    )


def silent(tokenizer: Tokenizer) -> Subject:
    """A model that stops at once."""
    return subject_of(StandIn(tokenizer.num_ids, lambda _: tokenizer.eos_id), tokenizer)


def test_a_model_that_knows_nothing_needs_the_logarithm_of_the_vocabulary(
    tokenizer: Tokenizer,
) -> None:
    subject = subject_of(StandIn(tokenizer.num_ids), tokenizer)
    nats = math.log(tokenizer.num_ids)
    for domain in text_suite(subject)["domains"]:
        # float32 logits, summed in float64
        assert domain["nats_per_token"] == pytest.approx(nats, rel=1e-6)
        bits = domain["tokens"] * math.log2(tokenizer.num_ids) / domain["characters"]
        assert domain["bits_per_character"] == pytest.approx(bits, rel=1e-6)
    positions = position_suite(subject)
    assert [b["nats"] for b in positions["buckets"]] == pytest.approx([nats] * 8, rel=1e-6)
    assert [b["first"] for b in positions["buckets"]] == [0, 16, 32, 64, 128, 256, 512, 1024]
    assert positions["rise"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_task_is_right_for_who_knows_it_and_wrong_for_who_is_silent(
    name: str, tokenizer: Tokenizer
) -> None:
    family = FAMILIES[name]
    listener = silent(tokenizer)
    script = []
    for kind in family.kinds:
        rng = listener.rng(name, kind)
        for _ in range(tasks.QUICK_ASKED):
            task = family.draw(kind, rng, held_out=True)
            prompt = tasks.question_of(listener, task).ids
            script.append((prompt, tokenizer.encode(task.expected)))
    knows = scripted(tokenizer.num_ids, tokenizer.eos_id, script)
    for kind in tasks.family_suite(subject_of(knows, tokenizer), name)["kinds"]:
        assert (kind["share"], kind["well_formed"]) == (1, 1), kind
    for kind in tasks.family_suite(listener, name)["kinds"]:
        assert kind["right"] == 0, kind


def looks_up(tokenizer: Tokenizer, *, carefully: bool) -> StandIn:
    """Answers with the number of the name asked for, or with the first number of the text."""

    def follow(ids: list[int]) -> int:
        text = tokenizer.decode(ids)
        found = re.findall(r"The number of (\w+) is (\w+)\.", text.split("</think>")[0])
        name = re.findall(r"What is the number of (\w+)\?", text)
        if not name or "</think>" not in text:
            return tokenizer.eos_id
        number = dict(found)[name[0]] if carefully else found[0][1]
        answer = tokenizer.encode(f"The number of {name[0]} is {number}.")
        begin = len(ids) - 1 - ids[::-1].index(tokenizer.special_id("</think>"))
        written = len(ids) - begin - 1
        return answer[written] if written < len(answer) else tokenizer.eos_id

    return StandIn(tokenizer.num_ids, follow)


def test_needles_are_found_by_who_looks_up_and_by_chance_else(tokenizer: Tokenizer) -> None:
    careful = needle.needle_suite(subject_of(looks_up(tokenizer, carefully=True), tokenizer, 600))
    assert {cell["length"] for cell in careful["cells"]} == {256, 512}
    assert {cell["share"] for cell in careful["cells"]} == {1.0}
    first = needle.needle_suite(subject_of(looks_up(tokenizer, carefully=False), tokenizer, 600))
    for cell in first["cells"]:
        assert cell["share"] == 1 / cell["keys"]  # each of them is asked for once
    nobody = needle.needle_suite(silent(tokenizer))
    assert {cell["right"] for cell in nobody["cells"]} == {0}


@pytest.mark.parametrize("filler", needle.FILLERS)
def test_haystacks_fit_their_length_and_hold_the_needle_at_its_depth(
    filler: str, tokenizer: Tokenizer
) -> None:
    listener = silent(tokenizer)
    for length in (256, 1024):
        for depth in (0.05, 0.5, 0.95):
            rng = random.Random(f"{length}/{depth}")
            stack = needle.make_haystack(rng, tokenizer, filler, length, 1, depth)
            (question,) = needle.questions_about(listener, stack)
            assert 0.7 * length < len(question.state.ids) + len(question.ids) <= length
            ((name, number),) = stack.numbers.items()
            place = stack.text.index(f"The number of {name} is {number}.") / len(stack.text)
            sentence = max(map(len, re.split(r"(?<=[.!?]) ", stack.text))) / len(stack.text)
            assert abs(place - depth) < sentence
            assert stack.right(name, f"It is {number}!")
            assert not stack.right(name, f"It is 1{number}.")
    many = needle.make_haystack(random.Random(8), tokenizer, filler, 512, 8, None)
    first, second, *_ = many.numbers.values()
    assert len(set(many.numbers.values())) == 8
    assert not many.right(next(iter(many.numbers)), f"{first} or {second}")


def test_held_out_texts_are_the_ones_they_claim_to_be() -> None:
    assert held_out_text("novel").startswith("Call me Ishmael. Some years ago - never mind")
    assert "the state of our Union has never been stronger" in held_out_text("speeches")


def test_final_answer_is_the_last_number_or_the_last_word() -> None:
    assert gym.final_answer("12 - 15 = -3.", "-3") == "-3"
    assert gym.final_answer("It has 4, no, 5 legs.", "5") == "5"
    assert gym.final_answer("She is his mother.", "mother") == "mother"
    assert gym.final_answer("", "5") == gym.final_answer("", "son") == ""


def test_problems_of_others_are_judged_by_their_own_verifiers(tokenizer: Tokenizer) -> None:
    dataset, options = gym.PROBLEMS["sum of 2, 2 digits"]
    entries = reasoning_gym.create_dataset(dataset, size=gym.QUICK_ASKED, seed=0, **options)
    known = {entry["question"]: entry["answer"] for entry in entries}

    def follow(ids: list[int]) -> int:
        text = tokenizer.decode(ids)
        question = text.split("<｜User｜>")[-1].split("<｜Assistant｜>")[0]
        answer = tokenizer.encode(f"That is {known.get(question, 'unknown')}.")
        begin = len(ids) - 1 - ids[::-1].index(tokenizer.special_id("<｜Assistant｜>"))
        written = len(ids) - begin - 2
        return answer[written] if written < len(answer) else tokenizer.eos_id

    kinds = gym.gym_suite(subject_of(StandIn(tokenizer.num_ids, follow), tokenizer))["kinds"]
    shares = {(kind["kind"], kind["thinking"]): kind["share"] for kind in kinds}
    assert shares["sum of 2, 2 digits", False] == 1
    assert shares["sum of 2, 2 digits", True] == 0  # its reasoning never ends
    assert shares["leg counting", False] == 0


def test_a_suite_that_cannot_run_says_what_it_needs_and_the_others_run(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)  # as if not installed
    results = evaluate(silent(tokenizer), ["gym", "memorization", "needle"])
    assert set(results["suites"]) == {"needle"}
    assert "dougong[eval]" in results["left_out"]["gym"]
    assert "`dougong train` fetches them" in results["left_out"]["memorization"]


def test_the_same_seed_asks_the_same_whatever_else_is_asked(tokenizer: Tokenizer) -> None:
    subject = subject_of(looks_up(tokenizer, carefully=False), tokenizer, 300)
    alone = evaluate(subject, ["needle"])["suites"]["needle"]
    assert alone == evaluate(subject, ["needle", next(iter(FAMILIES))])["suites"]["needle"]
