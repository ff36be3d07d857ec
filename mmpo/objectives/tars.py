"""TARS: the preference under a perturbed question, and the spectrum of what the model thinks while answering.

The paper (arXiv 2507.21584) and its released code describe different algorithms; `tars` is the paper's. The
perturbation itself is made by `mmpo.trainers.perturb`.

Shapes: b pairs, t tokens of a response (padded), h hidden channels, k frequencies.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from mmpo.errors import UserError
from mmpo.models.pairs import PairLogps, ResponseLogps
from mmpo.objectives.pairwise import per_pair
from mmpo.objectives.term import Term, register
from mmpo.objectives.visual import log_ratio

CHOSEN, REJECTED = "chosen_perturbed", "rejected_perturbed"
"""Views: both answers to the perturbed question about the clean image."""


def spectrum(states: Tensor) -> Tensor:
    """F(z) [k, h] of the states z [t, h] of one response: the squared real part of their Fourier transform along the
    tokens, every channel by itself. arXiv 2507.21584, section 2.3."""
    return torch.fft.fft(states.float(), dim=0).real.square()


def log_spectral_ratio(
    policy: Tensor, reference: Tensor, *, reduction: str = "bins", cutoff: float = 1.0, eps: float = 1e-8
) -> Tensor:
    """log F(policy) - log F(reference) of one response, both [t, h]; the two span the same tokens.

    `reduction`: "sum" compares the totals over bins and channels (with all bins close to a ratio of norms: Parseval),
    "bins" averages the logarithm over bins and channels, "each" leaves it per bin and channel [k, h]. Only the lowest
    `cutoff` of the bins are used, at least one.
    """
    bins = max(1, round(cutoff * len(policy)))
    ours, theirs = spectrum(policy)[:bins], spectrum(reference)[:bins]
    if reduction == "sum":
        return (ours.sum() + eps).log() - (theirs.sum() + eps).log()
    ratio = (ours + eps).log() - (theirs + eps).log()
    return ratio if reduction == "each" else ratio.mean()


def _states(response: ResponseLogps, which: str, i: int) -> Tensor:
    states = response.policy_hidden if which == "policy" else response.reference_hidden
    if states is None:
        raise UserError("the spectral term needs hidden states, and scoring ran without them")
    return states[i][response.mask[i]]


@register("spectral", rewards=None, views=(CHOSEN, REJECTED), needs_hidden=True)
def spectral(
    pairs: PairLogps, *, beta: float = 0.1, reduction: str = "bins", cutoff: float = 1.0, eps: float = 1e-8
) -> Term:
    """softplus(-beta [R_w - R_l]), R the log spectral ratio between the policy's states under the perturbed question
    and the reference's under the clean one, over the response's own tokens in the last layer.

    arXiv 2507.21584, section 2.3, whose reduction is not given: see `log_spectral_ratio`. "each" takes the sigmoid per
    bin and channel and needs responses of one length; the shorter sets the number of bins. At policy = reference with
    nothing perturbed: log 2.
    """
    if reduction not in ("sum", "bins", "each"):
        raise UserError(f"spectral: reduction is sum, bins or each, not {reduction!r}")
    if not 0 < cutoff <= 1:
        raise UserError(f"spectral: cutoff is a share of the frequencies in (0, 1], not {cutoff}")
    losses = []
    for i in range(len(pairs)):
        ratios = []
        for clean, perturbed in ((pairs.chosen, pairs.view(CHOSEN)), (pairs.rejected, pairs.view(REJECTED))):
            ours, theirs = _states(perturbed, "policy", i), _states(clean, "reference", i)
            ratios.append(log_spectral_ratio(ours, theirs.detach(), reduction=reduction, cutoff=cutoff, eps=eps))
        if reduction == "each":
            bins = min(len(ratio) for ratio in ratios)
            ratios = [ratio[:bins] for ratio in ratios]
        losses.append(softplus(-beta * (ratios[0] - ratios[1])).mean())
    return per_pair(torch.stack(losses))


@register("perturbed_dpo", views=(CHOSEN, REJECTED))
def perturbed_dpo(pairs: PairLogps, *, beta: float = 0.1) -> Term:
    """DPO of both answers to the perturbed question, policy and reference alike. arXiv 2507.21584, eq. of L_DPO."""
    gap = log_ratio(pairs.view(CHOSEN)) - log_ratio(pairs.view(REJECTED))
    return per_pair(softplus(-beta * gap))


@register("tars", views=(CHOSEN, REJECTED), needs_hidden=True)
def tars(
    pairs: PairLogps, *, beta: float = 0.1, lam: float = 0.1, reduction: str = "bins", cutoff: float = 1.0
) -> Term:
    """`perturbed_dpo` + lam `spectral`: L_TARS of the paper (arXiv 2507.21584), whose text sets beta 1 and lam 0.1."""
    preference = perturbed_dpo(pairs, beta=beta).values
    return per_pair(preference + lam * spectral(pairs, beta=beta, reduction=reduction, cutoff=cutoff).values)
