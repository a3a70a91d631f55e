"""The engine in its thread: many callers, streams left early, closing, faults."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest
import torch

import dougong
from dougong.chat.tokenizer import Tokenizer
from dougong.engine.engine import Engine, EngineError
from dougong.engine.request import Finish, Job, Reply, Update
from dougong.engine.sampler import Options
from dougong.errors import InputError
from dougong.model.sampling import SamplingParams
from dougong.model.transformer import Transformer


@pytest.fixture(scope="module")
def parts() -> Iterator[tuple[Transformer, Tokenizer]]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    loaded = dougong.load("nano", backend="cpu", rounding="release", fallback=False)
    assert isinstance(loaded.transformer, Transformer)
    yield loaded.transformer, loaded.tokenizer
    torch.set_num_threads(threads)


def job(tokenizer: Tokenizer, text: str, seed: int, **changes: object) -> Job:
    options = Options(sampling=SamplingParams(seed=seed))
    settings = {"max_tokens": 20, "options": options} | changes
    return Job(prompt_ids=tokenizer.encode(text), **settings)  # type: ignore[arg-type]


def test_callers_in_many_threads_get_the_replies_of_one_alone(
    parts: tuple[Transformer, Tokenizer],
) -> None:
    jobs = [job(parts[1], f"Number {i} is", i) for i in range(12)]
    with Engine(*parts) as engine:
        alone = [engine.generate([one])[0] for one in jobs]
        found: dict[int, Reply] = {}

        def call(i: int) -> None:
            found[i] = engine.generate([jobs[i]])[0]

        callers = [threading.Thread(target=call, args=(i,)) for i in range(len(jobs))]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
    for i, reply in enumerate(alone):
        assert (found[i].ids, found[i].text, found[i].finish) == (
            reply.ids, reply.text, reply.finish,
        )  # fmt: skip


def test_a_stream_is_its_reply_and_leaving_it_frees_the_request(
    parts: tuple[Transformer, Tokenizer],
) -> None:
    async def talk(engine: Engine) -> None:
        text, ids = "", list[int]()
        async for update in engine.stream(job(parts[1], "Once upon a time", 1)):
            text += update.text
            ids += update.ids
            reply = update.reply
        assert reply is not None
        assert (text, ids) == (reply.text, reply.ids)
        endless = job(parts[1], "Once upon a time", 1, max_tokens=100_000, stop_ids=frozenset())
        stream = engine.stream(endless)
        await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]
        while engine.metrics.replies["cancelled"] == 0:
            await asyncio.sleep(0.01)

    with Engine(*parts, memory_tokens=200_000) as engine:
        asyncio.run(talk(engine))


def test_a_stop_string_ends_the_answer_before_it(parts: tuple[Transformer, Tokenizer]) -> None:
    with Engine(*parts) as engine:
        (whole,) = engine.generate([job(parts[1], "Once upon a time", 2, max_tokens=40)])
        stop = whole.text[10:13]
        stopped = job(parts[1], "Once upon a time", 2, max_tokens=40, stops=(stop,))
        (reply,) = engine.generate([stopped])
    assert reply.finish is Finish.STOP
    assert reply.text == whole.text[: whole.text.index(stop)]


def test_closing_answers_everybody(parts: tuple[Transformer, Tokenizer]) -> None:
    engine, replies = Engine(*parts), list[Reply]()

    def listen(update: Update) -> None:
        if update.reply is not None:
            replies.append(update.reply)

    for seed in range(5):
        endless = job(parts[1], "Once", seed, max_tokens=5_000)
        engine.submit(endless, listen)
    engine.close()
    assert [reply.finish for reply in replies] == [Finish.CANCELLED] * 5
    with pytest.raises(EngineError, match="closed"):
        engine.submit(job(parts[1], "Once", 0))


def test_a_fault_in_the_engine_leaves_nobody_waiting(
    parts: tuple[Transformer, Tokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(*parts)

    def fail(works: object) -> None:
        raise RuntimeError("the memory is gone")

    monkeypatch.setattr(engine._core.runner, "run", fail)
    (reply,) = engine.generate([job(parts[1], "Once", 0)])
    assert reply.finish is Finish.ERROR
    assert "the memory is gone" in str(reply.error)
    with pytest.raises(EngineError, match="the memory is gone"):
        engine.generate([job(parts[1], "Once", 0)])
    engine.close()


def test_scores_are_the_log_probabilities_of_the_text(parts: tuple[Transformer, Tokenizer]) -> None:
    ids = parts[1].encode("The cat sat on the mat.")
    with Engine(*parts) as engine:
        scores = engine.score(ids)
        assert len(scores) == len(ids) - 1
        with pytest.raises(InputError, match="no tokens"):
            engine.score([])
    logits_TV = parts[0].logits(parts[0](torch.tensor(ids), [len(ids)]))
    logits_TV = logits_TV[:-1, : parts[1].num_ids].float()
    assert scores == torch.log_softmax(logits_TV, -1)[range(len(scores)), ids[1:]].tolist()
