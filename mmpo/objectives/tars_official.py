"""TARS as its released code computes it, which is another algorithm than the paper's (`mmpo.objectives.tars`).

Commit b2e6288 of KejiaZhang-Robust/TARS: random tokens of the whole sequence are perturbed, question and response
alike, in chosen and rejected independently; an image-preference term with a diffused image is added; the spectral term
is a triplet hinge on the embeddings of the whole sequence. `mmpo.trainers.views.disturb` makes the sequences.

Shapes: b pairs, t tokens of a response (padded), s tokens of a sequence, h hidden channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad, softplus

from mmpo.errors import UserError
from mmpo.objectives.parameters import NonNegative, Positive
from mmpo.objectives.registry import objective
from mmpo.objectives.tars import own_states, wide
from mmpo.objectives.term import Term, per_pair
from mmpo.types import Hidden, PairLogps, ResponseLogps, ViewSpec

CHOSEN = ViewSpec("chosen_disturbed", "chosen", prompt="disturbed")
REJECTED = ViewSpec("rejected_disturbed", "rejected", prompt="disturbed")
CHOSEN_NOISY = ViewSpec("chosen_disturbed_corrupted", "chosen", prompt="disturbed", image="corrupted")
"""Views: both answers with tokens of the whole sequence replaced, and the chosen one of these about the noisy image.
Their weights are 0 at replaced tokens of the response."""


def spectral_distance(ours: Tensor, theirs: Tensor) -> Tensor:
    """mean((|FFT ours| - |FFT theirs|)^2) of two sequences of states [s, h], along the tokens, in float32 or better."""
    ours, theirs = (torch.fft.fft(wide(states), dim=0).abs() for states in (ours, theirs))
    return (ours - theirs).square().mean()


def triplet(anchor: Tensor, positive: Tensor, negative: Tensor, margin: float) -> Tensor:
    """max(0, d(anchor, positive) - d(anchor, negative) + margin) with `spectral_distance`, all [s, h]."""
    return torch.relu(spectral_distance(anchor, positive) - spectral_distance(anchor, negative) + margin)


def _sequence(parameters: Mapping[str, Any]) -> Hidden:
    return Hidden(int(parameters["layer"]), "sequence")


@objective(
    "tars_official",
    views=(CHOSEN, REJECTED, CHOSEN_NOISY),
    corruption="diffusion",
    hidden=_sequence,
    paper="TARS's code",
    spec="TARS 3",
)
def tars_official(
    pairs: PairLogps,
    *,
    beta: Positive = 0.1,
    lam: NonNegative = 0.1,
    image: NonNegative = 1.0,
    margin: NonNegative = 0.5,
    layer: int = 0,
    average: bool = True,
) -> Term:
    """softplus(-beta [D(~y_w|v) - D(~y_r|v)]) + image softplus(-beta [D(~y_w|v) - D(~y_w|v')]) + lam L_f, D the
    log-ratios of the disturbed answers without their replaced tokens, v' the diffused image, and L_f the triplet hinge
    max(0, d(z_pw, z_cw) - d(z_pw, z_cr) + margin): z_pw the policy's states of the disturbed chosen sequence, z_cw and
    z_cr the reference's of the clean chosen and rejected ones.

    `layer` 0, the embeddings, is the released code's; with an adapter on the language model alone they never change,
    and 1 is the first layer whose term has a gradient. `average` takes the hinge of every pair, over the tokens that
    both of its sequences have; False that of the batch's first pair for all, zeros filling the shorter sequences.
    """
    clean, other, noisy = (_kept_log_ratio(pairs.view(view)) for view in (CHOSEN, REJECTED, CHOSEN_NOISY))
    preference = softplus(-beta * (clean - other)) + image * softplus(-beta * (clean - noisy))
    return per_pair(preference + lam * _hinge(pairs, margin, average))


def _kept_log_ratio(response: ResponseLogps) -> Tensor:
    """The log-ratio over the tokens that were not replaced, [b]."""
    if response.reference is None:
        raise UserError("this objective needs reference log-probs, and scoring ran without a reference")
    ratio = response.policy - response.reference
    return (ratio if response.weights is None else ratio * response.weights).sum(-1)


def _hinge(pairs: PairLogps, margin: float, average: bool) -> Tensor:
    """L_f of each pair, [b]."""

    asked = [(pairs.view(CHOSEN), "policy"), (pairs.chosen, "reference"), (pairs.rejected, "reference")]
    states = [
        (ours, chosen.detach(), rejected.detach()) for ours, chosen, rejected in zip(*own_states(asked), strict=True)
    ]
    if average:
        return torch.stack([_trimmed(*of_pair, margin) for of_pair in states])
    longest = max(
        found.shape[1]
        for found in (pairs.view(CHOSEN).policy_hidden, pairs.chosen.reference_hidden, pairs.rejected.reference_hidden)
        if found is not None
    )
    first = [pad(found, (0, 0, 0, longest - len(found))) for found in states[0]]
    return triplet(first[0], first[1], first[2], margin).expand(len(pairs))


def _trimmed(anchor: Tensor, positive: Tensor, negative: Tensor, margin: float) -> Tensor:
    near, far = min(len(anchor), len(positive)), min(len(anchor), len(negative))
    return torch.relu(
        spectral_distance(anchor[:near], positive[:near]) - spectral_distance(anchor[:far], negative[:far]) + margin
    )
