"""The shipped model on backend cpu."""

import pytest
import torch
import torch.nn.functional as F

import dougong


def test_two_hundred_greedy_tokens_are_the_references() -> None:
    ours = dougong.load("nano", backend="cpu", fallback=False)
    prompt = ours.encode("Once upon a time, a small dragon found a bell in the snow.")
    model = ours.transformer
    with torch.inference_mode():
        state, ids = model.new_state(), torch.tensor(prompt)
        step = ids
        for _ in range(200):
            logits = model.logits(model(step, [len(step)], [state])[-1:])
            step = logits.argmax(-1)
            ids = torch.cat([ids, step])
        # one forward pass of the reference over the same tokens would have chosen each of them
        want = dougong.load("nano").logits(ids[:-1])
    assert torch.equal(want[len(prompt) - 1 :].argmax(-1), ids[len(prompt) :])


@pytest.mark.parametrize("rounding", ["none", "release"])
def test_the_number_type_of_serving_costs_no_quality(rounding: str) -> None:
    """On stories of its own; docs/cpu.md has the figures of 24."""
    exact, serving = (
        dougong.load("nano", backend="cpu", fallback=False, dtype=dtype, rounding=rounding)
        for dtype in ("float32", "bfloat16")
    )
    losses: list[list[torch.Tensor]] = [[], []]
    moved, same = [], []
    for seed in range(6):
        answer = exact.generate("Tell me a story.", seed=seed)
        ids = exact.encode("Tell me a story.") + answer.ids
        start, target = len(ids) - len(answer.ids), torch.tensor(answer.ids)
        scores = [model.logits(ids)[start - 1 : -1] for model in (exact, serving)]
        drawn = [F.cross_entropy(logits, target, reduction="none") for logits in scores]
        for kept, loss in zip(losses, drawn, strict=True):
            kept.append(loss)
        moved.append((drawn[0] - drawn[1]).abs())
        same.append(scores[0].argmax(-1) == scores[1].argmax(-1))
    means = [torch.cat(kept).mean().item() for kept in losses]
    # bf16 keeps 8 bits: a logit of 10 moves by 0.02 to 0.04, either way, which cancels in a mean
    assert abs(means[0] - means[1]) < 0.02
    assert torch.cat(moved).mean() < 0.04
    assert torch.cat(same).double().mean() > 0.97
