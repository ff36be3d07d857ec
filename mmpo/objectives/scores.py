"""Losses that read scores of the pair: numbers that a reward model, a judge or an embedder gave beforehand.

Notation as in `pairwise`; s_w and s_l are the scores of chosen and rejected, m = s_w - s_l. Scores are constants. One
that is missing or out of its range is refused: a loss that clamped it would train on something else than it says.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from mmpo.errors import UserError
from mmpo.objectives.pair_weights import margin_weight, similarity_weight
from mmpo.objectives.pairwise import dpo
from mmpo.objectives.parameters import AboveOne, NonNegative, OpenShare, Positive
from mmpo.objectives.ratios import by_difficulty, by_score_gap
from mmpo.objectives.registry import Identity, objective
from mmpo.objectives.scored import check_range, must_have, of_pairs, scored
from mmpo.objectives.single import Rows, reads_of_rows, squared_errors, unit_of
from mmpo.objectives.term import Term, log_ratios, per_pair
from mmpo.objectives.weighing import reweighed
from mmpo.types import PairLogps


@objective(
    "odpo",
    reads=("reference", "scores"),
    paper="arXiv 2402.10571",
    spec="4",
    link=True,
)
def odpo(
    pairs: PairLogps,
    *,
    beta: Positive = 0.5,
    alpha: Positive = 1.0,
    offset: Literal["log", "ratio", "linear"] = "log",
) -> Term:
    """softplus(-(z - alpha o)): the chosen response must be ahead by an offset that grows with the gap of the scores.
    DPO with an offset, Amini et al. 2024 (arXiv 2402.10571).

    o is `log`: log m, which is negative for m < 1, so that the scale of the scores matters; `ratio`: log(s_w/s_l);
    `linear`: m. A pair with m <= 0 has no offset and is refused: drop it when the pairs are built.
    """
    chosen, rejected = (scored(pairs, "odpo", name) for name in ("chosen", "rejected"))
    gap = chosen - rejected
    if wrong := torch.nonzero(gap <= 0).flatten().tolist():
        raise UserError(
            f"odpo needs scores in which chosen is above rejected: {of_pairs(wrong, gap)} chosen "
            f"{chosen[wrong[0]].item():g} and rejected {rejected[wrong[0]].item():g}",
            hint="drop such pairs when you build the data",
        )
    if offset == "ratio":
        if wrong := torch.nonzero(rejected <= 0).flatten().tolist():
            raise UserError(
                f"odpo with offset: ratio needs scores above 0: {of_pairs(wrong, gap)} rejected "
                f"{rejected[wrong[0]].item():g}",
                hint="use offset: log or offset: linear",
            )
        ahead = chosen.log() - rejected.log()
    else:
        ahead = gap.log() if offset == "log" else gap
    return per_pair(softplus(alpha * ahead - beta * log_ratios(pairs).gap))


@objective("mappo", reads=("reference", "scores"), paper="arXiv 2507.21183", spec="4", link=True)
def mappo(pairs: PairLogps, *, beta: Positive = 0.1) -> Term:
    """softplus(-beta (a - m b)) for scores in [0, 1]: the rejected response is pushed down as far as it is worse. Lan
    et al. 2025 (arXiv 2507.21183). m = 1 is dpo, m = 0 leaves the chosen response alone.
    """
    return dpo(reweighed(pairs, by_score_gap), beta=beta)


@objective(
    "madpo",
    reads=("reference", "scores"),
    paper="arXiv 2510.05342",
    spec="4",
    identities=(Identity({"lam": 0.0}, "dpo"),),
    link=True,
)
def madpo(
    pairs: PairLogps,
    *,
    beta: Positive = 0.1,
    c_min: OpenShare = 0.5,
    c_max: AboveOne = 2.0,
    lam: NonNegative = 1.0,
    tau: Positive = 2.0,
    reward_scale: Positive = 1.0,
) -> Term:
    """w softplus(-z), w = sigmoid(c h)/sigmoid(h) for h > -tau, else 1: pairs that a reward model finds hard count
    more, easy ones less. Margin-adaptive DPO (arXiv 2510.05342). The weight carries no gradient.

    h = reward_scale m is the reward model's margin in logits; c(|h|) = c_min + (c_max - c_min)/(1 + k e^(lam (|h| -
    tau))), k = (c_max - 1)/(1 - c_min), falls from about c_max through 1 at tau to c_min. The scores of a judge are
    no logits: scale them by `reward_scale`. lam = 0 is dpo.
    """
    weight = margin_weight(pairs, c_min=c_min, c_max=c_max, lam=lam, tau=tau, reward_scale=reward_scale)
    return per_pair(weight * softplus(-beta * log_ratios(pairs).gap))


@objective(
    "sem_dpo",
    reads=("reference", "scores"),
    paper="arXiv 2507.20133",
    spec="4",
    identities=(Identity({"alpha": 0.0}, "dpo"),),
    link=True,
)
def sem_dpo(pairs: PairLogps, *, beta: Positive = 0.1, alpha: NonNegative) -> Term:
    """e^(-alpha (1 - similarity)) softplus(-z): pairs whose chosen response strays from the prompt count less. Sem-DPO
    (arXiv 2507.20133), known from its abstract only.

    `similarity` is the cosine of the embeddings of prompt and chosen response; for captions the image's is the natural
    one. No value of `alpha` is published: it must be given. alpha = 0 is dpo.
    """
    return per_pair(similarity_weight(pairs, alpha=alpha) * softplus(-beta * log_ratios(pairs).gap))


@objective("da_dpo", reads=("reference", "scores"), paper="arXiv 2601.00623", spec="4", link=True)
def da_dpo(pairs: PairLogps, *, beta: Positive = 0.1, gamma: Positive = 1.0) -> Term:
    """softplus(-beta gamma (|m| + 1) D): a larger beta for pairs of a larger gap. Difficulty-aware DPO (arXiv
    2601.00623), from the authors' release; the scores are votes of CLIP and a multimodal model on the pair's
    difficulty, made beforehand.
    """
    return dpo(reweighed(pairs, by_difficulty, gamma=gamma), beta=beta)


@objective("sppo", reads=("reference", "scores"), paper="arXiv 2405.00675", spec="5", link=True)
def sppo(pairs: PairLogps, *, beta: Positive = 0.001) -> Term:
    """(a - (s_w - 1/2)/beta)^2 + (b - (s_l - 1/2)/beta)^2 for win rates s in [0, 1]. Wu et al. 2024 (arXiv 2405.00675).

    beta is the paper's 1/eta. Win rates 1 and 0 are sppo_hard.
    """
    a, b = log_ratios(pairs)
    wins, losses = (scored(pairs, "sppo", name, 0, 1) - 0.5 for name in ("chosen", "rejected"))
    return per_pair((a - wins / beta) ** 2 + (b - losses / beta) ** 2)


@objective(
    "una_mse",
    of=unit_of,
    reads=reads_of_rows("reference", "scores"),
    paper="arXiv 2408.15339",
    spec="5",
    link=True,
)
def una_mse(pairs: PairLogps, *, beta: Positive = 0.01, rows: Rows = "pairs") -> Term:
    """[(sigmoid(r_w) - s_w)^2 + (sigmoid(r_l) - s_l)^2]/2 for scores in [0, 1]: the implicit reward learns the score
    itself. UNA, Wang et al. 2024 (arXiv 2408.15339). It saturates: beta 0.01 was best.

    `rows: responses` learns the responses of `groups.data` each for itself, however many a group has, and each must
    have a score.
    """
    if rows == "responses":
        return squared_errors(pairs, "una_mse", beta=beta, unscored=None)
    a, b = log_ratios(pairs)
    chosen, rejected = (scored(pairs, "una_mse", name, 0, 1) for name in ("chosen", "rejected"))
    return per_pair(((torch.sigmoid(beta * a) - chosen) ** 2 + (torch.sigmoid(beta * b) - rejected) ** 2) / 2)


@objective(
    "uft",
    of=unit_of,
    reads=reads_of_rows("reference", "scores"),
    paper="arXiv 2410.21438",
    spec="5",
    identities=(Identity({}, "una_mse"),),
    link=True,
)
def uft(pairs: PairLogps, *, beta: Positive = 0.01, rows: Rows = "pairs") -> Term:
    """Mean of (sigmoid(r) - s)^2 over the responses of the pair that have a score in [0, 1]: scored and supervised rows
    in one run. UFT, Wang et al. 2024 (arXiv 2410.21438).

    A chosen response without score (NaN) is a supervised row, s = 1; a rejected one without score drops out. Where all
    are scored it is una_mse.

    `rows: responses` learns the responses of `groups.data` each for itself: one without score, in a group in which none
    has one, is a supervised row, s = 1.
    """
    if rows == "responses":
        return squared_errors(pairs, "uft", beta=beta, unscored=1.0)
    if not {"chosen", "rejected"} & set(pairs.scores):
        must_have(pairs, "uft", "chosen")
    a, b = log_ratios(pairs)
    chosen, rejected = (_scored_or_missing(pairs, "uft", name) for name in ("chosen", "rejected"))
    given = ~rejected.isnan()
    up = (torch.sigmoid(beta * a) - chosen.nan_to_num(1.0)) ** 2
    down = given * (torch.sigmoid(beta * b) - rejected.nan_to_num(0.0)) ** 2
    return per_pair((up + down) / (1 + given.to(up.dtype)))


def _scored_or_missing(pairs: PairLogps, objective: str, name: str) -> Tensor:
    """The score in [0, 1] of that name of every pair [b], NaN where it has none."""
    if name not in pairs.scores:
        return torch.full_like(pairs.chosen.policy_sum.detach(), math.nan)
    score = pairs.score(name).detach().to(pairs.chosen.policy)
    check_range(score[~score.isnan()], objective, name, 0, 1)
    return score
