"""The router: which experts a token goes to, and how much each one counts.

Shapes: T tokens, D hidden size, E experts, K experts per token.
Source: architecture specification 4.1.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from dougong.kernels.dtypes import widen


def router_scores(x_TD: Tensor, weight_ED: Tensor) -> Tensor:
    """sqrt(softplus(x @ weight^T)) in the wide dtype: [T, E]; narrower would reorder near-ties."""
    return F.softplus(F.linear(widen(x_TD), weight_ED)).sqrt()


def top_k_lowest_index(scores: Tensor, k: int) -> Tensor:
    """Indices of the k largest along the last dim, largest first; of equals the lowest index."""
    return scores.sort(dim=-1, descending=True, stable=True).indices[..., :k]


def router(
    x_TD: Tensor,
    weight_ED: Tensor,
    bias_E: Tensor | None,
    hashed_TK: Tensor | None,
    *,
    top_k: int,
    route_scale: float,
) -> tuple[Tensor, Tensor]:
    """Returns (weights_TK wide, experts_TK int64); the weights of a token sum to `route_scale`.

    `hashed_TK` (hash layers) names the experts outright. Otherwise the best `top_k` of score plus
    bias are taken: the bias changes which experts win, never how much each one counts.
    """
    scores_TE = router_scores(x_TD, weight_ED)
    if hashed_TK is not None:
        experts_TK = hashed_TK
    else:
        biased_TE = scores_TE if bias_E is None else scores_TE + bias_E
        experts_TK = top_k_lowest_index(biased_TE.detach(), top_k)
    weights_TK = scores_TE.gather(-1, experts_TK)
    return weights_TK / weights_TK.sum(-1, keepdim=True) * route_scale, experts_TK


def lookup(table_VK: Tensor, ids_T: Tensor) -> Tensor:
    """A hash layer's experts: rows `ids_T` of its table, [T, K]."""
    return table_VK[ids_T]
