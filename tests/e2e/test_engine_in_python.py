"""`dougong.Engine`: questions in words, several at once, streamed and scored."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
import torch

import dougong
from dougong.errors import InputError

PROMPTS = ["Tell me a story about a bear.", "What is 2 + 3 ?", [{"role": "user", "content": "Hi!"}]]


@pytest.fixture(scope="module")
def engine() -> Iterator[dougong.Engine]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with dougong.Engine("nano", memory_tokens=4096) as started:
        yield started
    torch.set_num_threads(threads)


def test_answers_together_are_the_answers_alone(engine: dougong.Engine) -> None:
    together = engine.generate(PROMPTS, max_tokens=24, seed=5, logprobs=1)
    for prompt, answer in zip(PROMPTS, together, strict=True):
        (alone,) = engine.generate([prompt], max_tokens=24, seed=5, logprobs=1)
        assert (alone.ids, alone.text, alone.logprobs) == (
            answer.ids, answer.text, answer.logprobs,
        )  # fmt: skip
        assert len(answer.logprobs) == len(answer.ids)


def test_answer_i_of_n_is_what_seed_plus_i_gives_alone(engine: dougong.Engine) -> None:
    three = engine.generate(PROMPTS[:1], n=3, seed=7, max_tokens=12)
    alone = [engine.generate(PROMPTS[:1], seed=7 + i, max_tokens=12)[0] for i in range(3)]
    assert [answer.ids for answer in three] == [answer.ids for answer in alone]
    assert len({tuple(answer.ids) for answer in three}) == 3


def test_the_engine_gives_what_the_model_alone_gives(engine: dougong.Engine) -> None:
    settings = {"backend": "cpu", "dtype": "bfloat16", "rounding": dougong_rounding()}
    model = dougong.load("nano", **settings)
    for prompt in PROMPTS:
        one = model.generate(prompt, max_tokens=24, seed=9, top_p=0.9)
        (other,) = engine.generate([prompt], max_tokens=24, seed=9, top_p=0.9)
        assert (one.ids, one.text, one.finish_reason) == (
            other.ids, other.text, other.finish_reason,
        )  # fmt: skip


def dougong_rounding() -> str:
    from dougong.api import serving_rounding

    return serving_rounding("nano")


def test_a_stream_adds_up_to_its_answer(engine: dougong.Engine) -> None:
    async def read() -> tuple[str, str]:
        stream = engine.stream("Tell me a story about a fox.", max_tokens=30, seed=1)
        text = "".join([piece.text async for piece in stream])
        assert stream.answer is not None
        return text, stream.answer.text

    text, whole = asyncio.run(read())
    assert text == whole != ""


def test_a_stop_string_ends_the_answer_and_is_left_out(engine: dougong.Engine) -> None:
    (whole,) = engine.generate(["Once upon a time"], raw=True, max_tokens=30, seed=2)
    word = whole.text.split()[4]
    (cut,) = engine.generate(["Once upon a time"], raw=True, max_tokens=30, seed=2, stop=[word])
    assert cut.text == whole.text[: whole.text.index(word)]
    assert cut.finish_reason == "stop"


def test_scores_are_the_log_probabilities_of_the_model(engine: dougong.Engine) -> None:
    text = "Once upon a time there was a fox."
    ids = engine.model.encode(text, raw=True)
    scores = engine.score(text)
    assert len(scores) == len(ids) - 1
    assert scores == engine.score(ids)
    # likely English, so well above the 1 in 4,096 of a blind guess
    assert sum(scores) / len(scores) > -6


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"n": 0}, "n is 0"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"max_tokens": 10**6}, "do not fit"),
        ({"logprobs": 21}, "logprobs is 21"),
        ({"temperature": -1}, "temperature"),
        ({"stop": "x"}, "list of strings"),
        ({"stop": [""]}, "at most 16 strings"),
        ({"effort": "max"}, "switch thinking on"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_one_sentence(
    engine: dougong.Engine, options: dict[str, object], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        engine.generate(["Hi!", "Hello!"], **options)
