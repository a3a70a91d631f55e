"""One request: chunks, continued conversations and limits leave the drawn tokens as they are."""

from __future__ import annotations

import pytest
import torch
from support.tiny import tiny_model

from dougong.errors import InputError
from dougong.model.generation import Limits, Request, all_logits, pieces
from dougong.model.sampling import SamplingParams
from dougong.model.transformer import Transformer

# fp32 sums in another order: the golden vectors' own tolerance, see support/goldens.py.
TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def model() -> Transformer:
    return tiny_model()


def prompt(length: int) -> list[int]:
    generator = torch.Generator().manual_seed(length)
    return torch.randint(3, 500, (length,), generator=generator).tolist()


def test_pieces_cover_the_sequence_with_the_last_size_repeating() -> None:
    assert list(pieces(10, [1, 3])) == [(0, 1), (1, 4), (4, 7), (7, 10)]
    assert list(pieces(2, [5])) == [(0, 2)]
    assert list(pieces(0, [5])) == []


@pytest.mark.parametrize("chunks", [[1, 7, 128], [131], [4]])
def test_chunks_do_not_change_logits_or_mtp_logits(model: Transformer, chunks: list[int]) -> None:
    ids_S = torch.tensor(prompt(133))
    whole, whole_mtp = all_logits(model, ids_S, mtp=True)
    cut, cut_mtp = all_logits(model, ids_S, chunks, mtp=True)
    assert cut_mtp is not None
    assert whole_mtp is not None
    assert whole_mtp.shape == (132, 512)
    assert torch.allclose(cut, whole, atol=TOLERANCE, rtol=0)
    assert torch.allclose(cut_mtp, whole_mtp, atol=TOLERANCE, rtol=0)


def test_a_single_token_has_logits_and_no_mtp_logits(model: Transformer) -> None:
    main, drafted = all_logits(model, torch.tensor([5]), mtp=True)
    assert main.shape == (1, 512)
    assert drafted is not None
    assert drafted.shape == (0, 512)


def test_prefill_and_decode_give_the_logits_of_one_pass(model: Transformer) -> None:
    ids = prompt(140)
    request = Request(model)
    parts = [request.prefill(ids[:130]), *(request.feed([token]) for token in ids[130:])]
    whole, _ = all_logits(model, torch.tensor(ids))
    assert torch.allclose(torch.stack(parts), whole[129:], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("kept", [40, 35, 30, 3])
def test_the_next_prompt_continues_from_what_it_shares(model: Transformer, kept: int) -> None:
    first, request = prompt(40), Request(model)
    request.prefill(first)
    second = first[:kept] + prompt(9)
    logits = request.prefill(second)
    # Sixteen tokens can be rolled back; what is shared beyond that is computed again.
    assert request.reused_tokens == (kept if kept >= 24 else 0)
    assert request.held_ids == second
    assert torch.allclose(logits, Request(model).prefill(second), atol=TOLERANCE, rtol=0)


def test_the_same_prompt_twice_gives_the_same_logits(model: Transformer) -> None:
    request, ids = Request(model), prompt(20)
    first = request.prefill(ids)
    assert torch.allclose(request.prefill(ids), first, atol=TOLERANCE, rtol=0)
    assert request.reused_tokens == 19


def test_progress_is_told_of_every_chunk(model: Transformer) -> None:
    told: list[tuple[int, int]] = []
    all_logits(model, torch.tensor(prompt(9)), [4], report=lambda *how_far: told.append(how_far))
    assert told == [(4, 9), (8, 9), (9, 9)]


def test_decoding_ends_behind_a_stop_token_or_at_the_limit(model: Transformer) -> None:
    def answer(limits: Limits) -> list[int]:
        request = Request(model)
        return list(request.decode(request.prefill(prompt(12)), SamplingParams(), limits))

    free = answer(Limits(12))
    assert len(free) == 12
    assert answer(Limits(5)) == free[:5]
    stop = free[4]
    assert answer(Limits(12, frozenset({stop}))) == free[: free.index(stop) + 1]


def test_ids_beyond_the_tokenizer_are_never_drawn(model: Transformer) -> None:
    request = Request(model)
    logits = request.prefill(prompt(12))
    drawn = list(request.decode(logits, SamplingParams(temperature=5.0), Limits(40, num_ids=9)))
    assert max(drawn) < 9


def test_an_empty_and_a_too_long_prompt_are_refused(model: Transformer) -> None:
    with pytest.raises(InputError, match="no tokens"):
        Request(model).prefill([])
    with pytest.raises(InputError, match="1025 tokens and this model takes 1024"):
        Request(model).prefill(prompt(1025))


def test_mtp_of_a_model_without_mtp_blocks_is_refused(model: Transformer) -> None:
    bare = tiny_model()
    bare.mtp = torch.nn.ModuleList()
    with pytest.raises(InputError, match="no MTP"):
        all_logits(bare, torch.tensor([1, 2]), mtp=True)
