"""Losses that read scores of the pair: numbers that a reward model, a judge or an embedder gave beforehand.

Notation as in `pairwise`; s_w and s_l are the scores of chosen and rejected, m = s_w - s_l. Scores are constants. One
that is missing or out of its range is refused: a loss that clamped it would train on something else than it says.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from mmpo.errors import UserError
from mmpo.objectives.parameters import AboveOne, NonNegative, OpenShare, Positive
from mmpo.objectives.registry import Identity, objective
from mmpo.objectives.shapes import bounded_exp
from mmpo.objectives.term import Term, log_ratios, per_pair
from mmpo.types import SCORES_HINT, PairLogps

_COSINE = 1 + 1e-3
"""Cosines of embeddings in half precision may be a little above 1."""


@objective(
    "odpo",
    reads=("reference", "scores"),
    paper="arXiv 2402.10571",
    spec="4",
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
            f"odpo needs scores in which chosen is above rejected: {_of(wrong, gap)} chosen "
            f"{chosen[wrong[0]].item():g} and rejected {rejected[wrong[0]].item():g}",
            hint="drop such pairs when you build the data",
        )
    if offset == "ratio":
        if wrong := torch.nonzero(rejected <= 0).flatten().tolist():
            raise UserError(
                f"odpo with offset: ratio needs scores above 0: {_of(wrong, gap)} rejected "
                f"{rejected[wrong[0]].item():g}",
                hint="use offset: log or offset: linear",
            )
        ahead = chosen.log() - rejected.log()
    else:
        ahead = gap.log() if offset == "log" else gap
    return per_pair(softplus(alpha * ahead - beta * log_ratios(pairs).gap))


@objective("mappo", reads=("reference", "scores"), paper="arXiv 2507.21183", spec="4")
def mappo(pairs: PairLogps, *, beta: Positive = 0.1) -> Term:
    """softplus(-beta (a - m b)) for scores in [0, 1]: the rejected response is pushed down as far as it is worse. Lan
    et al. 2025 (arXiv 2507.21183). m = 1 is dpo, m = 0 leaves the chosen response alone.
    """
    a, b = log_ratios(pairs)
    chosen, rejected = (scored(pairs, "mappo", name, 0, 1) for name in ("chosen", "rejected"))
    gap = chosen - rejected
    if wrong := torch.nonzero(gap < 0).flatten().tolist():
        raise UserError(
            f"mappo needs scores in which chosen is not below rejected: {_of(wrong, gap)} chosen "
            f"{chosen[wrong[0]].item():g} and rejected {rejected[wrong[0]].item():g}",
            hint="drop such pairs when you build the data",
        )
    return per_pair(softplus(-beta * (a - gap * b)))


@objective(
    "madpo",
    reads=("reference", "scores"),
    paper="arXiv 2510.05342",
    spec="4",
    identities=(Identity({"lam": 0.0}, "dpo"),),
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
    h = reward_scale * (scored(pairs, "madpo", "chosen") - scored(pairs, "madpo", "rejected"))
    k = (c_max - 1) / (1 - c_min)
    c = c_min + (c_max - c_min) / (1 + k * bounded_exp(lam * (h.abs() - tau)))
    weight = torch.where(h > -tau, bounded_exp(logsigmoid(c * h) - logsigmoid(h)), 1.0)
    return per_pair(weight * softplus(-beta * log_ratios(pairs).gap))


@objective(
    "sem_dpo",
    reads=("reference", "scores"),
    paper="arXiv 2507.20133",
    spec="4",
    identities=(Identity({"alpha": 0.0}, "dpo"),),
)
def sem_dpo(pairs: PairLogps, *, beta: Positive = 0.1, alpha: NonNegative) -> Term:
    """e^(-alpha (1 - similarity)) softplus(-z): pairs whose chosen response strays from the prompt count less. Sem-DPO
    (arXiv 2507.20133), known from its abstract only.

    `similarity` is the cosine of the embeddings of prompt and chosen response; for captions the image's is the natural
    one. No value of `alpha` is published: it must be given. alpha = 0 is dpo.
    """
    distance = 1 - scored(pairs, "sem_dpo", "similarity", -_COSINE, _COSINE)
    return per_pair(bounded_exp(-alpha * distance) * softplus(-beta * log_ratios(pairs).gap))


@objective("da_dpo", reads=("reference", "scores"), paper="arXiv 2601.00623", spec="4")
def da_dpo(pairs: PairLogps, *, beta: Positive = 0.1, gamma: Positive = 1.0) -> Term:
    """softplus(-beta gamma (|m| + 1) D): a larger beta for pairs of a larger gap. Difficulty-aware DPO (arXiv
    2601.00623), from the authors' release; the scores are votes of CLIP and a multimodal model on the pair's
    difficulty, made beforehand.
    """
    gap = scored(pairs, "da_dpo", "chosen") - scored(pairs, "da_dpo", "rejected")
    return per_pair(softplus(-beta * gamma * (gap.abs() + 1) * log_ratios(pairs).gap))


@objective("sppo", reads=("reference", "scores"), paper="arXiv 2405.00675", spec="5")
def sppo(pairs: PairLogps, *, beta: Positive = 0.001) -> Term:
    """(a - (s_w - 1/2)/beta)^2 + (b - (s_l - 1/2)/beta)^2 for win rates s in [0, 1]. Wu et al. 2024 (arXiv 2405.00675).

    beta is the paper's 1/eta. Win rates 1 and 0 are sppo_hard.
    """
    a, b = log_ratios(pairs)
    wins, losses = (scored(pairs, "sppo", name, 0, 1) - 0.5 for name in ("chosen", "rejected"))
    return per_pair((a - wins / beta) ** 2 + (b - losses / beta) ** 2)


@objective("una_mse", reads=("reference", "scores"), paper="arXiv 2408.15339", spec="5")
def una_mse(pairs: PairLogps, *, beta: Positive = 0.01) -> Term:
    """[(sigmoid(r_w) - s_w)^2 + (sigmoid(r_l) - s_l)^2]/2 for scores in [0, 1]: the implicit reward learns the score
    itself. UNA, Wang et al. 2024 (arXiv 2408.15339). It saturates: beta 0.01 was best.
    """
    a, b = log_ratios(pairs)
    chosen, rejected = (scored(pairs, "una_mse", name, 0, 1) for name in ("chosen", "rejected"))
    return per_pair(((torch.sigmoid(beta * a) - chosen) ** 2 + (torch.sigmoid(beta * b) - rejected) ** 2) / 2)


@objective(
    "uft",
    reads=("reference", "scores"),
    paper="arXiv 2410.21438",
    spec="5",
    identities=(Identity({}, "una_mse"),),
)
def uft(pairs: PairLogps, *, beta: Positive = 0.01) -> Term:
    """Mean of (sigmoid(r) - s)^2 over the responses of the pair that have a score in [0, 1]: scored and supervised rows
    in one run. UFT, Wang et al. 2024 (arXiv 2410.21438).

    A chosen response without score (NaN) is a supervised row, s = 1; a rejected one without score drops out. Where all
    are scored it is una_mse.
    """
    if not {"chosen", "rejected"} & set(pairs.scores):
        _must_have(pairs, "uft", "chosen")
    a, b = log_ratios(pairs)
    chosen, rejected = (_scored_or_missing(pairs, "uft", name) for name in ("chosen", "rejected"))
    given = ~rejected.isnan()
    up = (torch.sigmoid(beta * a) - chosen.nan_to_num(1.0)) ** 2
    down = given * (torch.sigmoid(beta * b) - rejected.nan_to_num(0.0)) ** 2
    return per_pair((up + down) / (1 + given.to(up.dtype)))


def scored(
    pairs: PairLogps, objective: str, name: str, lowest: float | None = None, highest: float | None = None
) -> Tensor:
    """The score of that name of every pair [b], in the dtype of the log-probs. Raises `UserError`, which names the
    objective and the score, where one is missing, not finite or out of range."""
    _must_have(pairs, objective, name)
    score = pairs.score(name).detach().to(pairs.chosen.policy)
    if missing := int(score.isnan().sum()):
        raise UserError(
            f"{objective} reads scores.{name}, which {missing} of {len(score)} pairs of a batch lack (NaN)",
            hint="give every pair the score, or drop those without",
        )
    _check_range(score, objective, name, lowest, highest)
    return score


def _scored_or_missing(pairs: PairLogps, objective: str, name: str) -> Tensor:
    """The score in [0, 1] of that name of every pair [b], NaN where it has none."""
    if name not in pairs.scores:
        return torch.full_like(pairs.chosen.policy_sum.detach(), math.nan)
    score = pairs.score(name).detach().to(pairs.chosen.policy)
    _check_range(score[~score.isnan()], objective, name, 0, 1)
    return score


def _must_have(pairs: PairLogps, objective: str, name: str) -> None:
    if name not in pairs.scores:
        there = f"they have {', '.join(sorted(pairs.scores))}" if pairs.scores else "they have none"
        raise UserError(f"{objective} reads scores.{name} of the pairs, and {there}", hint=SCORES_HINT)


def _check_range(score: Tensor, objective: str, name: str, lowest: float | None, highest: float | None) -> None:
    low, high = -math.inf if lowest is None else lowest, math.inf if highest is None else highest
    wrong = score[~score.isfinite() | (score < low) | (score > high)]
    if len(wrong):
        expected = "be a finite number" if lowest is None else f"be from {round(low)} to {round(high)}"
        raise UserError(
            f"{objective} reads scores.{name}, which must {expected} (it is {wrong[0].item():g})",
            hint="rescale the scores" if lowest is not None else None,
        )


def _of(wrong: list[int], among: Tensor) -> str:
    """`not so for 1 of 3 pairs of a batch; the first has`, and its scores follow."""
    return f"not so for {len(wrong)} of {len(among)} pairs of a batch; the first has"
