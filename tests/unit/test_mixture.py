"""The stream of training batches: a function of (seed, step), in the shares asked for."""

import random

import pytest
import torch

from dougong.chat import special
from dougong.chat.prompt import encode_conversation
from dougong.chat.tokenizer import Tokenizer, load_tokenizer
from dougong.errors import ConfigError
from dougong.train.data.conversation import CONVERSATIONS, join
from dougong.train.data.corpus import Corpus
from dougong.train.data.encode import encode_sample
from dougong.train.data.mixture import Mixture
from dougong.train.data.needles import HAYSTACKS
from dougong.train.data.task import Text, ask
from dougong.train.data.tool_calls import TOOL_CALLS
from tests.support import training

SHARES = {"stories": 0.5, "talk": 0.2, "arithmetic": 0.3}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return load_tokenizer(training.write_inputs(tmp_path_factory.mktemp("mixture")))


def mixture(tokenizer: Tokenizer, seed: int = 1, max_length: int = 300) -> Mixture:
    return Mixture(SHARES, tokenizer, Corpus(), seed=seed, max_length=max_length)


def test_batch_depends_on_seed_and_step_alone(tokenizer: Tokenizer) -> None:
    first, again = mixture(tokenizer), mixture(tokenizer)
    first.batch(3, 600)  # what was drawn before leaves no trace
    batch = first.batch(7, 600)
    assert torch.equal(batch.ids_T, again.batch(7, 600).ids_T)
    assert not torch.equal(batch.ids_T[:50], again.batch(8, 600).ids_T[:50])
    assert not torch.equal(batch.ids_T[:50], mixture(tokenizer, seed=2).batch(7, 600).ids_T[:50])


def test_batch_holds_whole_samples_within_its_limits(tokenizer: Tokenizer) -> None:
    stream = mixture(tokenizer, max_length=200)
    for step in range(5):
        batch = stream.batch(step, 800)
        assert sum(batch.lengths) == len(batch.ids_T) <= 800
        assert max(batch.lengths) <= 200
        starts = torch.tensor([0, *batch.lengths[:-1]]).cumsum(0)
        ends = torch.tensor(batch.lengths).cumsum(0) - 1
        assert batch.ids_T[starts].eq(tokenizer.bos_id).all()
        assert batch.ids_T[ends].eq(tokenizer.eos_id).all()


def test_families_get_their_share_of_the_tokens(tokenizer: Tokenizer) -> None:
    stream = mixture(tokenizer)
    rng = random.Random(0)
    tokens = dict.fromkeys(SHARES, 0)
    for _ in range(1500):
        name = rng.choices(stream.names, stream.odds)[0]
        draw = stream.draws[stream.names.index(name)]
        tokens[name] += len(encode_sample(draw(rng), tokenizer).ids)
    total = sum(tokens.values())
    # lengths are estimated from 200 samples a family, and 1,500 draws scatter by a few percent
    for name, share in SHARES.items():
        assert tokens[name] / total == pytest.approx(share, abs=0.05)


def test_only_what_the_model_writes_is_trained_on(tokenizer: Tokenizer) -> None:
    sample = join([ask("Hi", "Hello!"), ask("2 + 2", "4.", "2 + 2 = 4.")])
    encoded = encode_sample(sample, tokenizer)
    trained = [i for i, weight in zip(encoded.ids, encoded.weights, strict=True) if weight]
    answers = f"Hello!{special.EOS}2 + 2 = 4.{special.END_THINK}4.{special.EOS}"
    assert tokenizer.decode(trained) == answers
    assert set(encoded.weights) == {0.0, 1.0}
    everything = f"{special.ASSISTANT}{special.THINK}2 + 2 = 4.{special.END_THINK}4.{special.EOS}"
    assert tokenizer.decode(encoded.ids).endswith(everything)


def test_running_text_is_trained_on_throughout(tokenizer: Tokenizer) -> None:
    encoded = encode_sample(Text("The fox ran."), tokenizer)
    assert tokenizer.decode(encoded.ids) == f"{special.BOS}The fox ran.{special.EOS}"
    assert encoded.weights == [0.0] + [1.0] * (len(encoded.ids) - 1)


def test_prompt_of_training_is_the_prompt_of_chatting(tokenizer: Tokenizer) -> None:
    """What is not trained on is exactly what the prompt encoder puts before an answer."""
    for thinking in (None, "So it is 4."):
        encoded = encode_sample(ask("2 + 2", "4.", thinking), tokenizer)
        prompt = encode_conversation(
            tokenizer, [{"role": "user", "content": "2 + 2"}], thinking=thinking is not None
        )
        assert encoded.ids[: len(prompt)] == prompt
        assert not any(encoded.weights[: len(prompt)])
        assert all(encoded.weights[len(prompt) :])


@pytest.mark.parametrize("seed", range(12))
def test_tool_calls_and_their_results_are_laid_out_as_served(
    tokenizer: Tokenizer, seed: int
) -> None:
    """Trained on: every call, the last answer. Not: declarations, requests, results."""
    task = TOOL_CALLS.draw("result told", random.Random(seed))
    encoded = encode_sample(task, tokenizer)
    trained = [i for i, weight in zip(encoded.ids, encoded.weights, strict=True) if weight]
    text = tokenizer.decode(trained)
    assert text.count("tool_calls>") == 2
    assert text.endswith(task.expected + special.EOS)
    assert "<tool_result>" not in text
    assert "Available Tool Schemas" not in text
    prompt = encode_conversation(tokenizer, task.messages, **task.options)
    assert encoded.ids[: len(prompt)] == prompt


@pytest.mark.parametrize("seed", range(20))
def test_a_name_that_was_told_is_asked_back(seed: int) -> None:
    task = CONVERSATIONS.draw("remembered name", random.Random(seed))
    name = task.answer["content"].removeprefix("Your name is ").rstrip(".")
    assert name in task.messages[0]["content"]
    assert 4 <= len(task.messages) <= 40


@pytest.mark.parametrize("seed", range(30))
def test_no_answer_of_a_conversation_lost_its_reasoning(seed: int) -> None:
    task = CONVERSATIONS.draw("several tasks", random.Random(seed))
    assert not any("reasoning_content" in message for message in task.messages)


@pytest.mark.parametrize("seed", range(10))
def test_haystacks_are_long_and_hold_their_needle(seed: int) -> None:
    task = HAYSTACKS(random.Random(seed))
    assert task.answer["content"] in task.messages[0]["content"]
    assert len(task.messages[0]["content"]) > 400


def test_family_without_a_short_sample_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(ConfigError, match=r"tools has no sample of at most 64 tokens"):
        Mixture({"tools": 1.0}, tokenizer, Corpus(), seed=1, max_length=64)
