"""TARS: the preference under a perturbed question, and the spectrum of the hidden states while answering.

The paper (arXiv 2507.21584) and its released code describe different algorithms; `tars` is the paper's,
`mmpo.objectives.tars_official` has the code's. The perturbation itself is made by `mmpo.trainers.views.views`.

Shapes: b pairs, t tokens of a response (padded), h hidden channels, k frequencies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from mmpo.errors import UserError
from mmpo.objectives.parameters import Few, NonNegative, Positive, PositiveShare
from mmpo.objectives.registry import Identity, objective
from mmpo.objectives.term import Term, log_ratio, per_pair
from mmpo.types import Hidden, PairLogps, ResponseLogps, ViewSpec

SpectrumReduction = Literal["sum", "bins", "each"]
AlignedSpan = Literal["response", "sequence"]

CHOSEN = ViewSpec("chosen_perturbed", "chosen", prompt="perturbed")
REJECTED = ViewSpec("rejected_perturbed", "rejected", prompt="perturbed")
"""Views: both answers to the perturbed question about the clean image."""


def sides(candidate: int) -> tuple[ViewSpec, ViewSpec]:
    """Both views of one perturbation of the question."""
    if not candidate:
        return CHOSEN, REJECTED
    chosen, rejected = (replace(v, name=f"{v.name}_{candidate}", candidate=candidate) for v in (CHOSEN, REJECTED))
    return chosen, rejected


def candidate_views(parameters: Mapping[str, Any]) -> tuple[ViewSpec, ...]:
    """The views of `parameters["candidates"]` perturbations."""
    return tuple(view for k in range(int(parameters.get("candidates", 1))) for view in sides(k))


def spectrum(states: Tensor) -> Tensor:
    """F(z) [k, h] of the states z [t, h] of one response: the squared real part of their Fourier transform along the
    tokens, every channel by itself. arXiv 2507.21584, section 2.3."""
    return torch.fft.fft(wide(states), dim=0).real.square()


def wide(states: Tensor) -> Tensor:
    """In float32 or better."""
    return states.to(torch.promote_types(states.dtype, torch.float32))


def log_spectral_ratio(
    policy: Tensor, reference: Tensor, *, reduction: SpectrumReduction = "bins", cutoff: float = 1.0, eps: float = 1e-8
) -> Tensor:
    """log F(policy) - log F(reference) of one response, both [t, h]; the two span the same tokens.

    `reduction`: "sum" compares the totals over bins and channels (with all bins close to a ratio of norms: Parseval),
    "bins" averages the logarithm over bins and channels, "each" leaves it per bin and channel [k, h]. Only the lowest
    `cutoff` of the bins are used, at least one. Raises `ValueError` where the two do not span the same tokens: their
    bins would be other frequencies.
    """
    if policy.shape != reference.shape:
        raise ValueError(f"states of the same tokens are compared, not {[*policy.shape]} with {[*reference.shape]}")
    bins = max(1, round(cutoff * len(policy)))
    ours, theirs = spectrum(policy)[:bins], spectrum(reference)[:bins]
    if reduction == "sum":
        return (ours.sum() + eps).log() - (theirs.sum() + eps).log()
    ratio = (ours + eps).log() - (theirs + eps).log()
    return ratio if reduction == "each" else ratio.mean()


def own_states(asked: Sequence[tuple[ResponseLogps, str]]) -> list[list[Tensor]]:
    """The hidden states of each response without padding, [t, h]; over the whole sequence where scoring returned that.
    A list for each record and model ("policy" or "reference") that is asked for: their lengths, which the Fourier
    transforms need as numbers, are read from the device together."""
    masks = [r.mask if r.hidden_mask is None else r.hidden_mask for r, _ in asked]
    read = torch.cat([mask.flatten() for mask in masks]).cpu().split([mask.numel() for mask in masks])
    found = []
    for (response, which), mask, flat in zip(asked, masks, read, strict=True):
        states = response.policy_hidden if which == "policy" else response.reference_hidden
        if states is None:
            raise UserError("the spectral term needs hidden states, and scoring ran without them")
        places = [row.nonzero().flatten() for row in flat.view(mask.shape)]
        whole = all(not len(own) or int(own[-1]) + 1 == len(own) for own in places)  # nothing but padding is left out
        found.append(
            [row[: len(own)] if whole else row[own.to(row.device)] for row, own in zip(states, places, strict=True)]
        )
    return found


def asked_states(parameters: Mapping[str, Any]) -> Hidden:
    """The hidden states that a loss with `layer` and `span` reads."""
    layer, span = parameters["layer"], parameters["span"]
    return Hidden(int(layer), span)


@objective(
    "spectral",
    rewards=None,
    views=(CHOSEN, REJECTED),
    hidden=asked_states,
    paper="arXiv 2507.21584, section 2.3",
    spec="TARS 2.3",
)
def spectral(
    pairs: PairLogps,
    *,
    beta: Positive = 0.1,
    reduction: SpectrumReduction = "bins",
    cutoff: PositiveShare = 1.0,
    eps: Positive = 1e-8,
    layer: int = -1,
    span: AlignedSpan = "response",
) -> Term:
    """softplus(-beta [R_w - R_l]), R the log spectral ratio between the policy's states under the perturbed question
    and the reference's under the clean one, after decoder layer `layer` (-1: the last), over the response's own tokens
    or the whole sequence (`span`).

    arXiv 2507.21584, section 2.3, which gives no reduction, layer or span; see `log_spectral_ratio`. "each" takes the
    sigmoid per bin and channel; the shorter response sets the number of bins. At policy = reference with nothing
    perturbed: log 2.
    """
    return per_pair(_spectral(pairs, 0, beta, reduction, cutoff, eps))


@objective("perturbed_dpo", views=candidate_views, paper="arXiv 2507.21584", spec="TARS 2")
def perturbed_dpo(pairs: PairLogps, *, beta: Positive = 0.1, candidates: Few = 1) -> Term:
    """DPO of both answers to the perturbed question, policy and reference alike: L_DPO of arXiv 2507.21584.

    With several `candidates` the worst perturbation of each pair counts, and it alone has a gradient: the inner
    maximization of the paper's objective, which it approximates by one.
    """
    return per_pair(_candidates(pairs, beta, candidates).amax(dim=0))


@objective(
    "tars",
    views=candidate_views,
    hidden=asked_states,
    paper="arXiv 2507.21584",
    spec="TARS 2.4",
    identities=(Identity({"lam": 0.0}, "perturbed_dpo", same=("beta", "candidates")),),
)
def tars(
    pairs: PairLogps,
    *,
    beta: Positive = 0.1,
    lam: NonNegative = 0.1,
    candidates: Few = 1,
    reduction: SpectrumReduction = "bins",
    cutoff: PositiveShare = 1.0,
    eps: Positive = 1e-8,
    layer: int = -1,
    span: AlignedSpan = "response",
) -> Term:
    """`perturbed_dpo` + lam `spectral`: L_TARS of the paper (arXiv 2507.21584), whose text sets beta 1 and lam 0.1.

    With several `candidates`, the one with the largest preference loss counts in both terms.
    """
    preference = _candidates(pairs, beta, candidates)  # [m, b]
    spectra = torch.stack([_spectral(pairs, k, beta, reduction, cutoff, eps) for k in range(candidates)])
    worst = preference.argmax(dim=0, keepdim=True)
    return per_pair((preference + lam * spectra).gather(0, worst).squeeze(0))


def _candidates(pairs: PairLogps, beta: float, count: int) -> Tensor:
    """The preference loss under each perturbation, [m, b]."""
    ratios = ([log_ratio(pairs.view(view)) for view in sides(k)] for k in range(count))
    gaps = [chosen - rejected for chosen, rejected in ratios]
    return softplus(-beta * torch.stack(gaps))


def _spectral(
    pairs: PairLogps, candidate: int, beta: float, reduction: SpectrumReduction, cutoff: float, eps: float
) -> Tensor:
    """The spectral loss of each pair under one perturbation, [b]."""
    perturbed = [(pairs.view(view), "policy") for view in sides(candidate)]
    chosen, rejected, *clean = own_states([*perturbed, (pairs.chosen, "reference"), (pairs.rejected, "reference")])
    losses = []
    for of_pair in zip(zip(chosen, clean[0], strict=True), zip(rejected, clean[1], strict=True), strict=True):
        ratios = []
        for ours, theirs in of_pair:
            ratios.append(log_spectral_ratio(ours, theirs.detach(), reduction=reduction, cutoff=cutoff, eps=eps))
        if reduction == "each":
            bins = min(len(ratio) for ratio in ratios)
            ratios = [ratio[:bins] for ratio in ratios]
        losses.append(softplus(-beta * (ratios[0] - ratios[1])).mean())
    return torch.stack(losses)
