"""SymMPO: two similar images with an answer each, and each image's answer is the other's negative.

The second image and its answer are those of the pair's twin, another row of the same data. Notation as in `visual`.
"""

from __future__ import annotations

from torch.nn.functional import softplus

from mmpo.objectives.parameters import NonNegative, Positive
from mmpo.objectives.registry import Identity, objective
from mmpo.objectives.term import Term, log_ratio, log_ratios, per_pair
from mmpo.types import PairLogps, ViewSpec

TWIN = ViewSpec("twin", "twin", image="twin")
TWIN_HERE = ViewSpec("twin_here", "twin")
CHOSEN_THERE = ViewSpec("chosen_there", "chosen", image="twin")
"""Views: the twin's chosen answer about the twin's image, the same about the pair's image, and the pair's chosen answer
about the twin's image."""


@objective(
    "symmpo",
    views=(TWIN, TWIN_HERE, CHOSEN_THERE),
    paper="arXiv 2506.11712",
    spec="VLM 13",
    identities=(Identity({"symmetric": 0.0, "margin": 0.0, "anchor": 0.0}, "dpo"),),
)
def symmpo(
    pairs: PairLogps,
    *,
    beta: Positive = 0.1,
    delta: float = 0.0,
    symmetric: NonNegative = 0.5,
    margin: NonNegative = 1e-4,
    anchor: NonNegative = 1.0,
) -> Term:
    """DPO(y_w, y_l|m) + symmetric [softplus(-beta D1) + softplus(-beta D2)] + margin (D1 - D2)^2 + anchor
    [softplus(delta - beta rho(y_w|m)) + softplus(delta - beta rho(y_w'|m'))], with D1 = rho(y_w|m) - rho(y_w'|m) and
    D2 = rho(y_w'|m') - rho(y_w|m'). SymMPO, arXiv 2506.11712.

    The margin compares log-ratios as they are, without beta, as the released code does.
    """
    own, twin = log_ratio(pairs.chosen), log_ratio(pairs.view(TWIN))
    d1 = own - log_ratio(pairs.view(TWIN_HERE))
    d2 = twin - log_ratio(pairs.view(CHOSEN_THERE))
    loss = softplus(-beta * log_ratios(pairs).gap)
    loss = loss + symmetric * (softplus(-beta * d1) + softplus(-beta * d2)) + margin * (d1 - d2).square()
    return per_pair(loss + anchor * (softplus(delta - beta * own) + softplus(delta - beta * twin)))
