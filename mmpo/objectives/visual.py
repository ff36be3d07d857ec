"""Losses that ask whether the preference rests on the image: the same answers under another image.

Notation as in `pairwise`, with rho(y|m) the policy's summed log-prob of y given image m minus the reference's, and m'
the corrupted image (`mmpo.data.corruption`). Every logistic term has a sigmoid of its own; at policy = reference
each is log 2.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad, softplus

from mmpo.objectives.parameters import Count, NonNegative, Positive, Share
from mmpo.objectives.registry import Identity, objective
from mmpo.objectives.term import Term, log_ratio, log_ratios, per_pair, token_log_ratios
from mmpo.types import PairLogps, ResponseLogps, ViewSpec

CHOSEN = ViewSpec("chosen_corrupted", "chosen", image="corrupted")
REJECTED = ViewSpec("rejected_corrupted", "rejected", image="corrupted")
"""Views: the chosen and the rejected answer to the same question about the corrupted image."""
PREFERRED = ViewSpec("chosen_preferred", "chosen", preferred_under=CHOSEN)
"""View: in the chosen answer's place, about the clean image, the tokens that the policy prefers on the corrupted."""


@objective("image_preference", views=(CHOSEN,), corruption="crop", paper="arXiv 2406.11839", spec="10")
def image_preference(pairs: PairLogps, *, beta: Positive = 0.1) -> Term:
    """softplus(-beta [rho(y_w|m) - rho(y_w|m')]): the chosen answer should be likely because of the image.

    The conditional preference of mDPO (Wang et al. 2024, arXiv 2406.11839), the visual term of CHiP (2501.16629) and,
    with a retrieved image as m', of Re-Align (2502.13146).
    """
    return per_pair(softplus(-beta * (log_ratio(pairs.chosen) - log_ratio(pairs.view(CHOSEN)))))


@objective("anchor", paper="arXiv 2406.11839", spec="10")
def anchor(pairs: PairLogps, *, beta: Positive = 0.1, delta: float = 0.0) -> Term:
    """softplus(delta - beta rho(y_w|m)): keeps the chosen answer's reward above `delta`. mDPO, arXiv 2406.11839."""
    return per_pair(softplus(delta - beta * log_ratio(pairs.chosen)))


@objective(
    "mdpo",
    views=(CHOSEN,),
    corruption="crop",
    paper="arXiv 2406.11839",
    spec="10",
    identities=(
        Identity({"image": 0.0, "anchor": 0.0}, "dpo"),
        Identity({"anchor": 0.0}, "rdpo", same=("beta", "image")),
    ),
)
def mdpo(
    pairs: PairLogps, *, beta: Positive = 0.1, delta: float = 0.0, image: NonNegative = 1.0, anchor: NonNegative = 1.0
) -> Term:
    """DPO + `image` times the image preference + `anchor` times the anchor. Wang et al. 2024 (arXiv 2406.11839), with
    m' a crop of 1 to 20 % of the area. At policy = reference: 3 log 2."""
    rho, rho_corrupted = log_ratio(pairs.chosen), log_ratio(pairs.view(CHOSEN))
    preference = softplus(-beta * log_ratios(pairs).gap)
    conditional = softplus(-beta * (rho - rho_corrupted))
    return per_pair(preference + image * conditional + anchor * softplus(delta - beta * rho))


@objective(
    "rdpo",
    views=(CHOSEN,),
    corruption="nearest",
    paper="arXiv 2502.13146",
    spec="VLM 12",
    identities=(Identity({"image": 0.0}, "dpo"),),
)
def rdpo(pairs: PairLogps, *, beta: Positive = 0.1, image: NonNegative = 1.0) -> Term:
    """DPO + `image` times the image preference, m' a similar image, retrieved. Re-Align, arXiv 2502.13146.

    The released code scores arg-max tokens instead of the chosen answer in its image term; this is the paper's form.
    """
    preference = softplus(-beta * log_ratios(pairs).gap)
    conditional = softplus(-beta * (log_ratio(pairs.chosen) - log_ratio(pairs.view(CHOSEN))))
    return per_pair(preference + image * conditional)


@objective(
    "vdpo",
    views=(CHOSEN, REJECTED),
    corruption="black",
    paper="arXiv 2411.02712",
    spec="VLM 7",
    identities=(Identity({"gamma": 1.0}, "dpo"),),
)
def vdpo(
    pairs: PairLogps,
    *,
    beta: Positive = 0.1,
    gamma: NonNegative = 0.75,
    text: Literal["policy", "reference"] = "policy",
) -> Term:
    """DPO whose scores carry visual guidance: s(y) = rho(y|m) + (gamma - 1) sg[log pi(y|m) - log pi(y|m')], m' black.

    V-DPO, arXiv 2411.02712. `text` names the model of the guidance: the `policy` as it moves, or the frozen
    `reference`, which the paper found to work better. gamma = 1 is DPO. Only rho carries a gradient, at full scale;
    the released code scales it by gamma, which leaves none at its own gamma = 0.
    """

    def score(response: ResponseLogps, corrupted: ResponseLogps) -> Tensor:
        if text == "policy":
            guidance = response.policy_sum - corrupted.policy_sum
        else:
            guidance = response.reference_sum - corrupted.reference_sum
        return log_ratio(response) + (gamma - 1) * guidance.detach()

    gap = score(pairs.chosen, pairs.view(CHOSEN)) - score(pairs.rejected, pairs.view(REJECTED))
    return per_pair(softplus(-beta * gap))


@objective(
    "povid",
    views=(CHOSEN, PREFERRED),
    corruption="diffusion_pixels",
    paper="arXiv 2402.11411",
    spec="VLM 4",
    identities=(Identity({"image": 0.0}, "dpo"),),
)
def povid(pairs: PairLogps, *, beta: Positive = 0.1, image: Share = 0.5) -> Term:
    """(1 - image) DPO(y_w, y_l) + image DPO(y_w, y_n), y_n the tokens that the policy prefers on the noisy image at the
    places of y_w, all about the clean image. POVID's second stage, arXiv 2402.11411, where both weigh 1/2.

    Nothing is generated: y_n is read off the noisy pass over y_w. Here policy and reference score the same y_n, so its
    tokens cancel where they are y_w's own; in the released code each model scores the tokens that it prefers itself.
    """
    preference = softplus(-beta * log_ratios(pairs).gap)
    noisy = softplus(-beta * (log_ratio(pairs.chosen) - log_ratio(pairs.view(PREFERRED))))
    return per_pair((1 - image) * preference + image * noisy)


@objective(
    "opa_dpo",
    reads=("reference", "weights"),
    views=(CHOSEN,),
    corruption="pixel_mask",
    paper="arXiv 2501.09695",
    spec="VLM 8",
    identities=(Identity({"image": 0.0, "anchor": 0.0}, "span_dpo"),),
)
def opa_dpo(
    pairs: PairLogps,
    *,
    beta: Positive = 0.1,
    delta: float = 0.0,
    image: NonNegative = 0.2,
    anchor: NonNegative = 1.0,
    rejected_anchor: NonNegative = 0.0,
    level: Literal["sequence", "token"] = "sequence",
    grid: Count | None = None,
) -> Term:
    """DPO + `image` times the image preference + `anchor` times the anchor on the chosen answer (+ `rejected_anchor`
    times softplus(r_l - delta)), on log-ratios that the pair's token weights scale where it has any; m' with 30 % of
    its pixels masked. OPA-DPO, arXiv 2501.09695.

    The paper's four preference terms are two such pairs about one image and rejected answer: the annotated answer as
    chosen, and the revised one with the weights of its corrections. The image preference has weights of its own (3 for
    what was wrong about the image), those of the view; the pair's where the data has no others. With `level: token`
    every sigmoid is taken per token, chosen and rejected matched by place and averaged over the longer of the two, as
    the released code does, which averages over a `grid` of 896 places, padding included.
    """
    other = pairs.view(CHOSEN)
    chosen, rejected = (_weighted_ratio(side, side.weights) for side in (pairs.chosen, pairs.rejected))  # [b, t]
    clean, corrupted = (_weighted_ratio(side, other.weights) for side in (pairs.chosen, other))
    if level == "sequence":
        a, b, visual = chosen.sum(-1), rejected.sum(-1), (clean - corrupted).sum(-1)
        terms = softplus(-beta * (a - b)) + image * softplus(-beta * visual)
        return per_pair(terms + anchor * softplus(delta - beta * a) + rejected_anchor * softplus(beta * b - delta))
    width = max(chosen.shape[1], rejected.shape[1])
    own, theirs = pairs.chosen.by_place, pairs.rejected.by_place
    placed = (own(chosen), theirs(rejected), own(clean) - other.by_place(corrupted))
    a, b, visual = (pad(ratio, (0, width - ratio.shape[1])) for ratio in placed)
    n_w, n_l = pairs.chosen.lengths, pairs.rejected.lengths
    mean = partial(_over_places, grid=grid)
    return per_pair(
        mean(softplus(-beta * (a - b)), torch.maximum(n_w, n_l))
        + image * mean(softplus(-beta * visual), n_w)
        + anchor * mean(softplus(delta - beta * a), n_w)
        + rejected_anchor * mean(softplus(beta * b - delta), n_l)
    )


def _weighted_ratio(response: ResponseLogps, weights: Tensor | None) -> Tensor:
    """The log-ratio of each token times its weight, [b, t]."""
    ratio = token_log_ratios(response)
    return ratio if weights is None else ratio * weights


def _over_places(losses: Tensor, lengths: Tensor, grid: int | None) -> Tensor:
    """The mean over the first `lengths` places of [b, t], [b]; with `grid`, over so many places, those without a token
    counting log 2."""
    places = torch.arange(losses.shape[1], device=losses.device) < lengths[:, None]
    total = (losses * places).sum(-1)
    if grid is None:
        return total / lengths
    return (total + (grid - lengths) * math.log(2)) / grid


@objective("tpo", reads=("reference", "label_logits"), corruption="diffusion", paper="arXiv 2412.14487")
def tpo(pairs: PairLogps, *, beta: Positive = 0.1, offset: Positive = 0.5) -> Term:
    """DPO on token log-probs p_t + log(offset + sigmoid(s_t)) of chosen and p_t + log(offset + sigmoid(-s_t)) of
    rejected responses; s is the raw logit of the token with the clean image minus that with the corrupted one. TPO, a
    token preference optimization with visual anchoring (arXiv 2412.14487), as released (alibaba/TPO 2f87f27).

    Policy and reference each have their own s; the policy's carries a gradient. The release corrupts with noise of the
    diffusion schedule at step 500. At an offset of 1/2 a token that the
    image does not move has its log-prob alone.
    """
    chosen, rejected = _anchored(pairs.chosen, 1, offset), _anchored(pairs.rejected, -1, offset)
    return per_pair(softplus(-beta * (chosen - rejected)))


def _anchored(response: ResponseLogps, sign: int, offset: float) -> Tensor:
    """The log-ratio of the visually anchored scores of a response, [b]."""

    def extra(clean: str, corrupted: str) -> Tensor:
        moved = torch.sigmoid(sign * (response.read(clean) - response.read(corrupted)))
        return torch.where(response.mask, (offset + moved).log(), 0.0).sum(-1)

    ours = response.policy_sum + extra("label_logit", "label_logit_corrupted")
    return ours - response.reference_sum - extra("reference_label_logit", "reference_label_logit_corrupted")
