"""The stream of training batches: a function of (seed, step), in the shares asked for."""

import random

import pytest
import torch

from dougong.chat import special
from dougong.chat.prompt import encode_conversation
from dougong.chat.tokenizer import Tokenizer, load_tokenizer
from dougong.train.data.corpus import Corpus
from dougong.train.data.encode import encode_sample
from dougong.train.data.long import conversation, far_needle
from dougong.train.data.mixture import Mixture
from dougong.train.data.sample import Sample, Turn
from tests.support import training

SHARES = {"story": 0.5, "talk": 0.2, "arithmetic": 0.3}


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
        generator = rng.choices(stream.generators, stream.odds)[0]
        name = list(SHARES)[stream.generators.index(generator)]
        tokens[name] += len(encode_sample(generator(rng), tokenizer).ids)
    total = sum(tokens.values())
    # lengths are estimated from 100 samples a family, and 1,500 draws scatter by a few percent
    for name, share in SHARES.items():
        assert tokens[name] / total == pytest.approx(share, abs=0.05)


def test_only_what_the_model_writes_is_trained_on(tokenizer: Tokenizer) -> None:
    sample = Sample(turns=(Turn("Hi", "Hello!"), Turn("2 + 2", "4.", "2 + 2 = 4.")))
    encoded = encode_sample(sample, tokenizer)
    trained = [i for i, weight in zip(encoded.ids, encoded.weights, strict=True) if weight]
    answers = f"Hello!{special.EOS}2 + 2 = 4.{special.END_THINK}4.{special.EOS}"
    assert tokenizer.decode(trained) == answers
    assert set(encoded.weights) == {0.0, 1.0}
    everything = f"{special.ASSISTANT}{special.THINK}2 + 2 = 4.{special.END_THINK}4.{special.EOS}"
    assert tokenizer.decode(encoded.ids).endswith(everything)


def test_running_text_is_trained_on_throughout(tokenizer: Tokenizer) -> None:
    encoded = encode_sample(Sample(text="The fox ran."), tokenizer)
    assert tokenizer.decode(encoded.ids) == f"{special.BOS}The fox ran.{special.EOS}"
    assert encoded.weights == [0.0] + [1.0] * (len(encoded.ids) - 1)


def test_prompt_of_training_is_the_prompt_of_chatting(tokenizer: Tokenizer) -> None:
    """What is not trained on is exactly what the prompt encoder puts before an answer."""
    for thinking in (None, "So it is 4."):
        encoded = encode_sample(Sample(turns=(Turn("2 + 2", "4.", thinking),)), tokenizer)
        prompt = encode_conversation(
            tokenizer, [{"role": "user", "content": "2 + 2"}], thinking=thinking is not None
        )
        assert encoded.ids[: len(prompt)] == prompt
        assert not any(encoded.weights[: len(prompt)])
        assert all(encoded.weights[len(prompt) :])


@pytest.mark.parametrize("seed", range(20))
def test_a_name_that_was_told_is_asked_back(seed: int) -> None:
    turns = conversation(random.Random(seed)).turns
    assert 2 <= len(turns) <= 20
    if turns[-1].question == "What is my name?" and turns[-1].answer.startswith("Your name is"):
        name = turns[-1].answer.removeprefix("Your name is ").rstrip(".")
        assert any(f"{name}" in turn.question for turn in turns[:-1])


@pytest.mark.parametrize("seed", range(10))
def test_far_needle_lies_in_several_stories(seed: int) -> None:
    turn = far_needle(random.Random(seed)).turns[0]
    assert turn.answer in turn.question
    assert len(turn.question) > 500
