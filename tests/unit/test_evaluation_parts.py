"""Baselines, intervals, copied runs, batches and tables of the evaluation, against arithmetic."""

import json
import math
import random

import pytest
import torch
from support.stand_ins import StandIn
from support.tiny import tiny_model

from dougong.errors import CheckpointError
from dougong.train.data.task import Task, ask
from dougong.train.evaluation.answering import Question, answer_all, state_behind
from dougong.train.evaluation.baselines import trigram_bits_per_character, xz_bits_per_character
from dougong.train.evaluation.card import CLOSE, OPEN, card_with_results
from dougong.train.evaluation.memorization import longest_runs
from dougong.train.evaluation.reading import losses_of_stream, losses_of_windows
from dougong.train.evaluation.table import by_distance, markdown
from dougong.train.evaluation.tasks import is_well_formed, share_of


def test_trigram_gives_the_probabilities_of_witten_and_bell() -> None:
    first = 1 / 256
    second = (1 + 1 * first) / (1 + 1)  # one `a` seen; no context yet
    third = 1 * (1 * first / (2 + 1)) / (1 + 1)  # after `a` only `a` was seen, once
    bits = -math.log2(first) - math.log2(second) - math.log2(third)
    assert trigram_bits_per_character("aab") == pytest.approx(bits / 3)


def test_noise_cannot_be_predicted_and_repetition_can() -> None:
    rng = random.Random(0)
    noise = "".join(rng.choice("0123456789abcdef") for _ in range(20_000))  # 4 bits a character
    for bits in (xz_bits_per_character, trigram_bits_per_character):
        assert 4 <= bits(noise) < 5
        assert bits("abcdefgh" * 2500) < 0.1


@pytest.mark.parametrize(
    ("right", "asked", "low", "high"),
    # Wilson's interval in Newcombe (1998), Statistics in Medicine 17, 857-872, table I
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_intervals_are_the_published_ones(right: int, asked: int, low: float, high: float) -> None:
    found = share_of(right, asked)
    assert (found["low"], found["high"]) == pytest.approx((low, high), abs=5e-5)


def test_copied_runs_are_the_longest_and_need_four_words() -> None:
    passages = ["We shall fight on the beaches, we shall fight on the landing grounds.", "A fox."]
    texts = [
        "Shall we? We shall fight on the LANDING grounds of love.",
        "We shall fight in the fields.",
        "A fox.",
    ]
    assert longest_runs(texts, passages) == ["we shall fight on the landing grounds", "", ""]


def tool_task() -> Task:
    """One call is wanted, of a tool with one required and one other parameter."""
    weather = {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "day": {"type": "string"}},
                "required": ["city"],
            },
        },
    }
    call = {
        "id": "0", "type": "function",
        "function": {"name": "weather", "arguments": '{"city": "Oslo"}'},
    }  # fmt: skip
    return Task(
        messages=({"role": "user", "content": "Weather in Oslo?"},),
        answer={"role": "assistant", "content": "", "tool_calls": [call]},
        judge=lambda completion: bool(completion.tool_calls),
        tools=(weather,),
    )


def test_calls_are_well_formed_if_their_tool_and_its_parameters_exist() -> None:
    task = tool_task()
    right = task.expected
    assert is_well_formed(task, right)
    assert is_well_formed(task, right.replace("Oslo", "Rome"))  # wrong, but readable
    assert not is_well_formed(task, right.replace('"weather"', '"climate"'))
    assert not is_well_formed(task, right.replace('"city"', '"town"'))
    assert not is_well_formed(task, right.replace('"city"', '"day"'))  # the required one is missing
    assert not is_well_formed(task, right[: len(right) // 2])


def test_json_is_well_formed_if_it_parses() -> None:
    task = ask("Ben is 7. Give JSON.", '{"name": "Ben", "age": 7}')
    assert is_well_formed(task, '{"name": "Tom", "age": 8}')
    assert not is_well_formed(task, '{"name": "Ben", "age": 7')
    assert not is_well_formed(task, "Ben is 7.")


def test_answers_do_not_depend_on_what_else_is_in_the_batch() -> None:
    model = tiny_model()
    rng = random.Random(1)
    prompts = [[rng.randrange(2, 60) for _ in range(rng.randint(1, 70))] for _ in range(60)]
    questions = [Question(ids=ids, max_tokens=1 + i % 9) for i, ids in enumerate(prompts)]
    together = answer_all(model, questions, stop_id=1, num_ids=60)
    for question, reply in list(zip(questions, together, strict=True))[::7]:
        (alone,) = answer_all(model, [question], stop_id=1, num_ids=60)
        assert alone == reply
        assert all(token < 60 for token in reply.ids)
    # Behind a state that has read the beginning, too.
    state = state_behind(model, prompts[0][:-1])
    continued = Question(ids=prompts[0][-1:], max_tokens=1, state=state.fork())
    assert answer_all(model, [continued], stop_id=1, num_ids=60) == together[:1]


def test_losses_of_windows_and_of_a_stream_are_the_cross_entropies() -> None:
    model = tiny_model()
    rng = random.Random(2)
    windows = [[rng.randrange(60) for _ in range(n)] for n in (700, 900, 1000, 40, 2)]
    together = losses_of_windows(model, windows)
    for window, losses in zip(windows, together, strict=True):
        ids = torch.tensor(window)
        log_p = model.logits(model(ids, [len(window)]))[:-1].log_softmax(-1)
        expected = -log_p.gather(1, ids[1:, None])[:, 0].double()
        # float32 sums in two orders
        torch.testing.assert_close(losses, expected, atol=2e-5, rtol=0)
        torch.testing.assert_close(losses_of_stream(model, window), expected, atol=2e-5, rtol=0)


def test_a_stop_token_ends_an_answer_and_is_no_part_of_it() -> None:
    model = StandIn(10, lambda ids: 5 if len(ids) < 4 else 1)
    (ended,) = answer_all(model, [Question(ids=[2, 3], max_tokens=9)], stop_id=1, num_ids=10)
    assert (ended.ids, ended.ended) == ([5, 5], True)
    (cut,) = answer_all(model, [Question(ids=[2, 3], max_tokens=2)], stop_id=1, num_ids=10)
    assert (cut.ids, cut.ended) == ([5, 5], False)


def test_single_needles_are_counted_by_how_far_back_they_stand() -> None:
    def cell(length: int, depth: float | None, right: int) -> dict[str, object]:
        return {"length": length, "depth": depth, "right": right, "asked": 2}

    cells = [cell(256, 0.95, 2), cell(512, 0.95, 1), cell(512, 0.75, 1), cell(512, 0.5, 1),
             cell(8192, 0.25, 0), cell(256, None, 2)]  # fmt: skip
    assert by_distance(cells) == {
        "0 to 64": (3, 4),
        "65 to 128": (1, 2),
        "129 to 512": (1, 2),
        "2,049 and more": (0, 2),
    }


def test_the_card_keeps_its_text_around_a_new_table() -> None:
    kind = {"kind": "a | b", "thinking": False, "asked": 4, "right": 1, "share": 0.25,
            "low": 0.05, "high": 0.7}  # fmt: skip
    said = {"question": "Hello!", "thinking": True, "temperature": 0, "seed": 0,
            "reasoning": "A greeting.", "text": "Hi.", "ended": True}  # fmt: skip
    results = {
        "seed": 0,
        "model": {"backend": "cpu", "dtype": "float32", "rounding": "none"},
        "suites": {"sums": {"kinds": [kind]}, "samples": {"answers": [said]}},
        "left_out": {"gym": "needs a gym."},
    }
    card = card_with_results(f"before {OPEN} old {CLOSE} after", results)
    assert card.startswith(f"before {OPEN}\n\nBackend cpu, float32, rounding none, seed 0")
    assert card.endswith(f"{CLOSE} after")
    assert markdown(results) in card
    assert "> **Hello!** (greedy, thinking)\n>\n> *A greeting.*\n>\n> Hi.\n" in card
    assert "| sums | a \\| b | 25 % | 5 to 70 %, 4 asked |" in card
    assert "Wrong more often than right, worst first: a | b (25 %).\n" in card
    assert "| gym | left out |  | needs a gym. |" in card
    assert card_with_results(card, json.loads(json.dumps(results))) == card
    with pytest.raises(CheckpointError, match="no place for the table"):
        card_with_results("a card", results)
