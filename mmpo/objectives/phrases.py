"""HALVA: contrasts the phrases that differ, and holds everything else where it was.

A phrase is a run of tokens whose weight is not 1, as character spans of the pair or `token_weights` mark them; the
k-th phrase of the chosen answer is contrasted with the k-th of the rejected one.

Shapes: b pairs, t tokens of a response (padded), k phrases.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from mmpo.errors import UserError
from mmpo.objectives.parameters import NonNegative
from mmpo.objectives.registry import objective
from mmpo.objectives.term import Term, per_pair
from mmpo.types import PairLogps, ResponseLogps


def phrase_numbers(response: ResponseLogps) -> Tensor:
    """For each token the number of its phrase, from 1; 0 outside, [b, t]."""
    if response.weights is None:
        raise UserError(
            "this objective needs the phrases that differ, and these pairs mark none",
            hint="set token_weights, or use data with chosen_weights and rejected_weights",
        )
    marked = (response.weights != 1) & response.mask
    # place by place: what lies between two turns ends no phrase
    there = response.by_place(marked)
    before = torch.nn.functional.pad(there[:, :-1], (1, 0))
    numbers = (there & ~before).cumsum(-1)
    return numbers.gather(1, response.places.clamp_min(0)) * marked


def phrase_logps(response: ResponseLogps, numbers: Tensor, count: int) -> Tensor:
    """The policy's summed log-prob of each phrase, given all that precedes it in its own answer, [b, k]."""
    columns = response.policy.new_zeros(len(numbers), count + 1)
    return columns.scatter_add(1, numbers, response.policy * (numbers > 0))[:, 1:]


def phrase_losses(pairs: PairLogps) -> tuple[Tensor, Tensor]:
    """(the sum of softplus(l_neg - l_pos) over a pair's phrases [b], their number [b]). Where the two sides mark
    different numbers of phrases, what each marks counts as one phrase."""
    sides = [phrase_numbers(side) for side in (pairs.chosen, pairs.rejected)]
    counts = [numbers.amax(-1) for numbers in sides]
    unequal = (counts[0] != counts[1]) & (torch.minimum(*counts) > 0)
    sides = [torch.where(unequal[:, None], numbers.clamp_max(1), numbers) for numbers in sides]
    found = torch.where(unequal, 1, torch.where(counts[0] == counts[1], counts[0], 0))
    width = max(1, *(int(numbers.max()) for numbers in sides))
    positive, negative = (
        phrase_logps(side, numbers, width) for side, numbers in zip((pairs.chosen, pairs.rejected), sides, strict=True)
    )
    real = torch.arange(width, device=found.device) < found[:, None]
    losses = torch.where(real, softplus(negative - positive), 0.0)
    return losses.sum(-1), found.to(losses.dtype)


@objective("phrase_contrast", reads=("weights",), rewards=None, paper="arXiv 2405.18654", spec="VLM 10")
def phrase_contrast(pairs: PairLogps) -> Term:
    """softplus(l_neg - l_pos), l the summed log-prob of a phrase given its own prefix, averaged over all phrases:
    HALVA's L_a, Sarkar et al. 2024 (arXiv 2405.18654). There is no reference and no beta.

    A pair without phrases counts nothing; in the released code every phrase that a pair has less than the batch's
    richest one adds log 2.
    """
    return Term(*phrase_losses(pairs))


@objective(
    "halva",
    reads=("reference", "weights", "kl"),
    rewards=None,
    paper="arXiv 2405.18654",
    spec="VLM 10",
    supervised=True,
)
def halva(pairs: PairLogps, *, alpha: NonNegative = 0.4) -> Term:
    """A pair's mean of softplus(l_neg - l_pos) over its phrases + alpha times its chosen answer's divergence from the
    reference, sum_t KL(pi_ref || pi). HALVA, arXiv 2405.18654: alpha 0.4 (7B) or 0.5 (13B).

    The paper takes the divergence on other, clean data: {phrase_contrast: {}, auxiliary_kl: {weight: 0.4}}.
    """
    total, count = phrase_losses(pairs)
    return per_pair(total / count.clamp_min(1) + alpha * pairs.chosen.kl_sum)
