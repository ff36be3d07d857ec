"""Losses that ask whether the preference rests on the image: the same answers under another image.

Notation as in `pairwise`, with rho(y|m) the policy's summed log-prob of y given image m minus the reference's, and m'
the corrupted image (`mmpo.data.corruption`). Every logistic term has a sigmoid of its own; at policy = reference
each is log 2.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import softplus

from mmpo.errors import UserError
from mmpo.models.pairs import PairLogps, ResponseLogps
from mmpo.objectives.pairwise import log_ratios, per_pair
from mmpo.objectives.term import Term, register

CHOSEN, REJECTED = "chosen_corrupted", "rejected_corrupted"
"""Views: the chosen and the rejected answer to the same question about the corrupted image."""


def log_ratio(response: ResponseLogps) -> Tensor:
    """rho [b]."""
    return response.policy_sum - response.reference_sum


@register("image_preference", views=(CHOSEN,), corruption="crop")
def image_preference(pairs: PairLogps, *, beta: float = 0.1) -> Term:
    """softplus(-beta [rho(y_w|m) - rho(y_w|m')]): the chosen answer should owe its probability to the image.

    The conditional preference of mDPO (Wang et al. 2024, arXiv 2406.11839), the visual term of CHiP (2501.16629) and,
    with a retrieved image as m', of Re-Align (2502.13146).
    """
    return per_pair(softplus(-beta * (log_ratio(pairs.chosen) - log_ratio(pairs.view(CHOSEN)))))


@register("anchor")
def anchor(pairs: PairLogps, *, beta: float = 0.1, delta: float = 0.0) -> Term:
    """softplus(delta - beta rho(y_w|m)): keeps the chosen answer's reward above `delta`. mDPO, arXiv 2406.11839."""
    return per_pair(softplus(delta - beta * log_ratio(pairs.chosen)))


@register("mdpo", views=(CHOSEN,), corruption="crop")
def mdpo(pairs: PairLogps, *, beta: float = 0.1, delta: float = 0.0, image: float = 1.0, anchor: float = 1.0) -> Term:
    """DPO + `image` times the image preference + `anchor` times the anchor. Wang et al. 2024 (arXiv 2406.11839), with
    m' a crop of 1 to 20 % of the area. At policy = reference: 3 log 2."""
    rho, rho_corrupted = log_ratio(pairs.chosen), log_ratio(pairs.view(CHOSEN))
    preference = softplus(-beta * log_ratios(pairs).gap)
    conditional = softplus(-beta * (rho - rho_corrupted))
    return per_pair(preference + image * conditional + anchor * softplus(delta - beta * rho))


@register("rdpo", views=(CHOSEN,), corruption="other")
def rdpo(pairs: PairLogps, *, beta: float = 0.1, image: float = 1.0) -> Term:
    """DPO + `image` times the image preference, m' a similar but other image. Re-Align, arXiv 2502.13146.

    The released code scores arg-max tokens instead of the chosen answer in its image term; this is the paper's form.
    """
    preference = softplus(-beta * log_ratios(pairs).gap)
    conditional = softplus(-beta * (log_ratio(pairs.chosen) - log_ratio(pairs.view(CHOSEN))))
    return per_pair(preference + image * conditional)


@register("vdpo", views=(CHOSEN, REJECTED), corruption="black")
def vdpo(pairs: PairLogps, *, beta: float = 0.1, gamma: float = 0.75, text: str = "policy") -> Term:
    """DPO whose scores carry visual guidance: s(y) = rho(y|m) + (gamma - 1) sg[log pi(y|m) - log pi(y|m')], m' black.

    V-DPO, arXiv 2411.02712. `text` names the model of the guidance: the `policy` as it moves, or the frozen
    `reference`, which the paper found to work better. gamma = 1 is DPO. Only rho carries a gradient, at full scale;
    the released code scales it by gamma, which leaves none at its own gamma = 0.
    """
    if text not in ("policy", "reference"):
        raise UserError(f"vdpo: text is policy or reference, not {text!r}")

    def score(response: ResponseLogps, corrupted: ResponseLogps) -> Tensor:
        if text == "policy":
            guidance = response.policy_sum - corrupted.policy_sum
        else:
            guidance = response.reference_sum - corrupted.reference_sum
        return log_ratio(response) + (gamma - 1) * guidance.detach()

    gap = score(pairs.chosen, pairs.view(CHOSEN)) - score(pairs.rejected, pairs.view(REJECTED))
    return per_pair(softplus(-beta * gap))
