"""The model in the package: others read it the same way, and it says something sensible."""

import json
import random
import re

import pytest
import torch
from transformers import DeepseekV4ForCausalLM, PreTrainedTokenizerFast

from dougong.chat.prompt import encode_conversation
from dougong.chat.tokenizer import Tokenizer, load_tokenizer
from dougong.checkpoint import open_checkpoint, schema
from dougong.checkpoint.locate import SHIPPED_MODELS
from dougong.model.loading import load_model
from dougong.model.transformer import Transformer
from dougong.train.card import TRAINING
from dougong.train.data.encode import encode_sample
from dougong.train.data.stories import STORIES
from dougong.train.data.task import Task, ask
from dougong.train.evaluation.answering import Question, answer_all
from dougong.train.evaluation.card import CARD, RESULTS, card_with_results
from dougong.train.evaluation.suites import weights_sha256
from dougong.train.quantize_aware import as_served

FOLDER = SHIPPED_MODELS / "nano"
LARGEST_FILE_BYTES = 8_000_000


@pytest.fixture(scope="module")
def model() -> Transformer:
    return load_model(FOLDER).eval()


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer(FOLDER)


@pytest.fixture(scope="module")
def story_ids(tokenizer: Tokenizer) -> torch.Tensor:
    """Stories of several HCA blocks, and more CSA entries (of 4 tokens) than an indexer selects."""
    rng = random.Random(5)
    ids: list[int] = []
    while len(ids) <= 150 * 4:
        ids += encode_sample(STORIES(rng), tokenizer).ids
    assert open_checkpoint(FOLDER).config.index_topk < 150
    return torch.tensor(ids)


def greedy_answers(model: Transformer, tokenizer: Tokenizer, tasks: list[Task]) -> list[str]:
    """What the model writes behind each task's prompt; nothing where it does not end by itself."""
    questions = [
        Question(ids=encode_conversation(tokenizer, task.messages, **task.options), max_tokens=260)
        for task in tasks
    ]
    replies = answer_all(model, questions, stop_id=tokenizer.eos_id, num_ids=tokenizer.num_ids)
    return [tokenizer.decode(reply.ids) if reply.ended else "" for reply in replies]


@torch.inference_mode()
def test_transformers_gives_the_same_logits(model: Transformer, story_ids: torch.Tensor) -> None:
    theirs = DeepseekV4ForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).float().eval()
    expected = theirs(story_ids[None], use_cache=False).logits[0]
    ours = model.logits(model(story_ids, [len(story_ids)]))
    # two float32 implementations of one model; logits reach about 20
    torch.testing.assert_close(ours, expected, atol=2e-4, rtol=0)
    assert torch.equal(ours.argmax(-1), expected.argmax(-1))


def test_transformers_reads_the_tokenizer_alike(
    tokenizer: Tokenizer, story_ids: torch.Tensor
) -> None:
    theirs = PreTrainedTokenizerFast.from_pretrained(FOLDER)
    text = "Lily has 12 apples, and the fox has a red kite."
    assert theirs(text)["input_ids"] == tokenizer.encode(text)
    assert theirs.eos_token_id == tokenizer.eos_id
    assert theirs.decode(story_ids) == tokenizer.decode(story_ids.tolist())


def test_file_is_the_official_layout_and_small() -> None:
    checkpoint = open_checkpoint(FOLDER)
    assert checkpoint.config.expert_dtype == "fp4"
    assert checkpoint.config.num_nextn_predict_layers == 1
    data = sum(spec.nbytes for spec in schema(checkpoint.config))
    size = (FOLDER / "model.safetensors").stat().st_size
    assert data < size < LARGEST_FILE_BYTES


def test_card_shows_the_whole_evaluation_of_these_weights() -> None:
    results = json.loads((FOLDER / RESULTS).read_text("utf-8"))
    assert results["model"]["weights_sha256"] == weights_sha256(FOLDER)
    assert not results["quick"]
    assert not results["left_out"]
    card = (FOLDER / CARD).read_text("utf-8")
    assert card_with_results(card, results) == card
    for run in json.loads((FOLDER / TRAINING).read_text("utf-8"))["runs"]:
        assert f"{run['config']['schedule']['tokens'] / 1e6:.1f} million tokens" in card


def test_stored_weights_are_the_trained_ones(model: Transformer) -> None:
    """Rounding again changes nothing: what ships is a fixed point of the stored formats."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with as_served(model):
        for name, parameter in model.named_parameters():
            assert torch.equal(parameter, before[name]), name


def test_stories_about_unseen_pairs_use_both_words_and_end(
    model: Transformer, tokenizer: Tokenizer
) -> None:
    """Greedy; these pairs of words never stood together in training. The card has the rate."""
    rng = random.Random(11)
    tasks = [STORIES.draw("story with two words", rng, held_out=True) for _ in range(8)]
    told = greedy_answers(model, tokenizer, tasks)
    assert sum(map(Task.check, tasks, told)) >= 5, told
    for text in told:
        words = re.findall(r"\w+", text)
        # a text that turns in circles repeats most of its four-word runs
        runs = list(zip(*(words[i:] for i in range(4)), strict=False))
        assert len(set(runs)) > 0.8 * len(runs)


def test_it_knows_who_it_is_and_says_hello(model: Transformer, tokenizer: Tokenizer) -> None:
    questions = ["Hello!", "Who are you?", "Thank you!"]
    replies = greedy_answers(model, tokenizer, [ask(question, "") for question in questions])
    assert re.match(r"(Hello|Hi)", replies[0])
    assert "Dougong" in replies[1]
    assert "welcome" in replies[2]
