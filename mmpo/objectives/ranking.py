"""Losses that rank a list of renderings of one answer, not two. Notation as in `visual`.

Shapes: b pairs, m further images.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from mmpo.errors import UserError
from mmpo.objectives.parameters import Few, NonNegative, Positive
from mmpo.objectives.registry import Identity, objective
from mmpo.objectives.term import Term, log_ratio, log_ratios, per_pair
from mmpo.types import PairLogps, ViewSpec


def partial_view(level: int) -> ViewSpec:
    """The chosen answer about the image of which a part is hidden, more of it the higher the level, from 1."""
    return ViewSpec(f"chosen_partial_{level}", "chosen", image="partial", candidate=level)


def partial_views(parameters: Mapping[str, Any]) -> tuple[ViewSpec, ...]:
    """The views of `parameters["levels"]` images, the most visible first."""
    return tuple(partial_view(level) for level in range(1, int(parameters["levels"]) + 1))


@objective(
    "lpoi",
    views=partial_views,
    paper="arXiv 2505.21061",
    identities=(Identity({"image": 0.0, "anchor": 0.0}, "dpo"),),
)
def lpoi(
    pairs: PairLogps,
    *,
    beta: Positive = 0.1,
    delta: float = 0.0,
    image: NonNegative = 1.0,
    anchor: NonNegative = 1.0,
    levels: Few = 4,
) -> Term:
    """DPO + `image` times the Plackett-Luce loss of the chosen answer's rewards over a list of images + `anchor` times
    the anchor softplus(delta - beta rho(y_w|m)). The list is the clean image and `levels` ones in which more and more
    of an object is hidden: the answer should be the likelier the more is to be seen. LPOI, arXiv 2505.21061.

    Plackett-Luce: sum_j [logsumexp_{i>=j} s_i - s_j] over s = beta rho, the clean image's first. At policy = reference
    it is log((levels + 1)!). With a single level it is the image preference, and the whole is mdpo.
    """
    shown = sorted((view for view in pairs.views if view.image == "partial"), key=lambda view: view.candidate)
    if not shown:
        raise UserError("this objective compares with 'chosen_partial_1', and the batch was scored without it")
    own = log_ratio(pairs.chosen)
    listed = plackett_luce(beta * torch.stack([own, *(log_ratio(pairs.view(view)) for view in shown)]))
    preference = softplus(-beta * log_ratios(pairs).gap)
    return per_pair(preference + image * listed + anchor * softplus(delta - beta * own))


def plackett_luce(scores: Tensor) -> Tensor:
    """-log of the probability that a list is drawn in its order, [b], of scores [m, b], the best first."""
    return torch.stack([scores[place:].logsumexp(0) - scores[place] for place in range(len(scores) - 1)]).sum(0)
