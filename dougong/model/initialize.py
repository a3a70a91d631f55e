"""Seeded starting weights for training."""

from __future__ import annotations

import torch

from dougong.model.transformer import Transformer


@torch.no_grad()
def initialize(model: Transformer, seed: int) -> Transformer:
    """Fills every parameter and returns the model.

    Matrices: normal with standard deviation 1 / sqrt(columns), which keeps a unit-RMS input at unit
    RMS at every width; the embedding unit normal. Norms 1; sinks, `ape` and mHC bases 0; mHC `fn`
    normal with the config's `initializer_range` and scales 1 (transformers' choice, specification
    3). Hash tables: distinct experts drawn anew for each token id.
    """
    generator = torch.Generator().manual_seed(seed)
    config = model.config
    for name, tensor in model.state_dict().items():
        leaf = name.rsplit(".", 1)[-1]
        if leaf == "tid2eid":
            keys = torch.rand(config.vocab_size, config.n_routed_experts, generator=generator)
            tensor.copy_(keys.argsort(-1)[:, : config.num_experts_per_tok])
        elif leaf in ("ape", "attn_sink", "bias", "base"):
            tensor.zero_()
        elif leaf == "scale" or tensor.dim() == 1:  # mHC factors; norm weights
            tensor.fill_(1)
        elif leaf == "fn":
            tensor.normal_(0, config.initializer_range, generator=generator)
        else:
            std = 1.0 if name == "embed.weight" else tensor.shape[-1] ** -0.5
            tensor.normal_(0, std, generator=generator)
    return model
