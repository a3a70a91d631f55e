"""MLA's two forms, and the state of a V3 or V3.2 request: whatever the cut, the same function."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dougong.config import RopeScaling, V3Config
from dougong.model.v3 import V3Transformer

# float64; only the order of sums differs. Measured: 2e-15.
TOLERANCE = 1e-12


def model(index_topk: int | None, form: str = "absorbed", layers: int = 2) -> V3Transformer:
    """A tiny V3.2 (V3 without `index_topk`), the same weights for either form and any top-k."""
    heads, dim = (None, None) if index_topk is None else (16, 12)
    config = V3Config(
        vocab_size=40,
        hidden_size=24,
        intermediate_size=32,
        moe_intermediate_size=8,
        num_hidden_layers=layers,
        num_attention_heads=3,
        q_lora_rank=16,
        kv_lora_rank=20,
        qk_nope_head_dim=10,
        qk_rope_head_dim=8,
        v_head_dim=6,
        first_k_dense_replace=1,
        n_routed_experts=8,
        num_experts_per_tok=3,
        n_group=4,
        topk_group=2,
        routed_scaling_factor=2.5,
        rope_scaling=RopeScaling(
            factor=8.0, original_max_position_embeddings=16, mscale=1.0, mscale_all_dim=1.0
        ),
        max_position_embeddings=512,
        index_n_heads=heads,
        index_head_dim=dim,
        index_topk=index_topk,
    )
    made = V3Transformer(config, form, dtype=torch.float64)
    with torch.no_grad():
        for name, tensor in sorted(made.state_dict().items()):
            seed = sum(name.encode())  # the same for a name, whatever else the model has
            tensor.normal_(generator=torch.Generator().manual_seed(seed))
            tensor.mul_(tensor.shape[-1] ** -0.5 if tensor.dim() > 1 else 0.3)
            tensor.add_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
    return made.eval()


def ids(num_tokens: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(40, (num_tokens,), generator=torch.Generator().manual_seed(seed))


def logits(made: V3Transformer, tokens: torch.Tensor, *args) -> torch.Tensor:
    return made.logits(made(tokens, *args))


lengths = st.lists(st.integers(1, 40), min_size=1, max_size=4)
top_ks = st.none() | st.integers(1, 30)


@settings(max_examples=15)
@given(lengths=lengths, top_k=top_ks, seed=st.integers(0, 99))
def test_naive_and_absorbed_forms_agree_in_values_and_gradients(lengths, top_k, seed):
    tokens, results = ids(sum(lengths), seed), []
    for form in ("naive", "absorbed"):
        made = model(top_k, form)
        out = logits(made, tokens, lengths)
        out.square().sum().backward()
        results.append({n: p.grad for n, p in made.named_parameters() if p.grad is not None})
        results[-1]["logits"] = out.detach()
    naive, absorbed = results
    assert naive.keys() == absorbed.keys()
    for name, want in naive.items():
        torch.testing.assert_close(absorbed[name], want, rtol=1e-10, atol=1e-10)


@settings(max_examples=25)
@given(
    chunks=st.lists(st.integers(1, 20), min_size=1, max_size=12),
    top_k=top_ks,
    form=st.sampled_from(["naive", "absorbed"]),
)
def test_any_chunking_gives_the_logits_of_one_prefill(chunks, top_k, form):
    made, tokens = model(top_k, form), ids(sum(chunks))
    with torch.no_grad():
        whole = logits(made, tokens, [len(tokens)])
        state = made.new_state()
        parts = [logits(made, part, [len(part)], [state]) for part in tokens.split(chunks)]
    assert state.length == len(tokens)
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=TOLERANCE)


@settings(max_examples=15)
@given(before=lengths, after=st.integers(1, 8), top_k=top_ks)
def test_requests_in_one_batch_do_not_touch_each_other(before, after, top_k):
    made, prompts = model(top_k), [ids(n, seed=n) for n in before]
    follow = ids(after, seed=1000)
    with torch.no_grad():
        states = [made.new_state() for _ in before]
        logits(made, torch.cat(prompts), before, states)
        together = logits(made, follow.repeat(len(before)), [after] * len(before), states)
        for prompt, got in zip(prompts, together.split(after), strict=True):
            alone = logits(made, torch.cat([prompt, follow]), [len(prompt) + after])[-after:]
            torch.testing.assert_close(got, alone, rtol=0, atol=TOLERANCE)


@settings(max_examples=15)
@given(kept=st.integers(1, 30), dropped=st.integers(0, 20), top_k=top_ks)
def test_rollback_and_fork_give_the_state_before(kept, dropped, top_k):
    made, prompt, draft, follow = model(top_k), ids(kept), ids(dropped, seed=1), ids(5, seed=2)
    with torch.no_grad():
        want = logits(made, torch.cat([prompt, follow]), [kept + 5])[-5:]
        rolled = made.new_state()
        made(prompt, [kept], [rolled])
        forked = rolled.fork()
        if dropped:
            made(draft, [dropped], [rolled])
        rolled.rollback(dropped)
        for state in (rolled, forked):
            assert state.length == kept
            got = logits(made, follow, [5], [state])
            torch.testing.assert_close(got, want, rtol=0, atol=TOLERANCE)


@settings(max_examples=15)
@given(length=st.integers(1, 30), extra=st.integers(0, 3))
def test_an_indexer_that_keeps_every_token_is_dense_attention(length, extra):
    tokens = ids(length)
    with torch.no_grad():
        dense = logits(model(None), tokens, [length])
        sparse = logits(model(length + extra), tokens, [length])
        if length > 8:
            narrow = logits(model(4), tokens, [length])
            assert not torch.allclose(narrow, dense, rtol=0, atol=1e-3)  # it does cut
    assert torch.equal(sparse, dense)


@settings(max_examples=15)
@given(length=st.integers(2, 30), data=st.data())
def test_nothing_depends_on_later_tokens(length, data):
    changed = data.draw(st.integers(1, length - 1))
    made, tokens = model(data.draw(top_ks)), ids(length)
    other = tokens.clone()
    other[changed:] = (other[changed:] + 7) % 40
    with torch.no_grad():
        before, after = (logits(made, row, [length])[:changed] for row in (tokens, other))
    torch.testing.assert_close(before, after, rtol=0, atol=TOLERANCE)
