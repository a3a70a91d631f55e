"""The shipped model on backend cpu."""

import torch

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
