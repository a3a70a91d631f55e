"""Each known mistake, patched into the model, must fail the golden comparison."""

import pytest
import torch
from support.goldens import TOLERANCE, expected, full, model, wanted
from support.mutations import MUTATIONS, Mutation


def error(name: str, mutation: Mutation | None = None) -> float:
    """Largest logit difference from the golden vectors of model `name`."""
    with torch.no_grad():
        golden = model(name)
        if mutation is not None and mutation.after is not None:
            mutation.after(golden)
        logits, _ = full(golden, expected(name)["input_ids"])
        return (logits - wanted(name, "logits")).abs().max().item()


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_the_golden_vectors_catch_it(
    mutation: Mutation, monkeypatch: pytest.MonkeyPatch, record_property
) -> None:
    mutation.apply(monkeypatch)
    difference = error(mutation.golden, mutation)
    record_property("largest_logit_difference", difference)
    assert difference > TOLERANCE


@pytest.mark.parametrize("name", sorted({mutation.golden for mutation in MUTATIONS}))
def test_without_a_mistake_the_same_comparison_passes(name: str) -> None:
    assert error(name) < TOLERANCE
