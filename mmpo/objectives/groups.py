"""Losses of groups: several responses to one prompt, each with a score.

r_k is beta times the summed log-ratio of response k, q = softmax(s/temperature) over the scores s of its group. A loss
is one of groups, however many responses each has.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad, softplus

from mmpo.errors import UserError
from mmpo.objectives.parameters import Positive
from mmpo.objectives.registry import objective
from mmpo.objectives.term import Term, log_ratio, per_pair
from mmpo.types import PairLogps, ResponseGroups, ResponseLogps


class _Group(NamedTuple):
    """The responses [r] of all groups: log-ratios, soft labels and group numbers, and the responses of each group."""

    ratios: Tensor
    labels: Tensor
    number: Tensor
    sizes: Tensor

    def sums(self, values: Tensor) -> Tensor:
        """The sum over each group, [g]."""
        return _sums(values, self.number, len(self.sizes))


@objective("nca", of="groups", reads=("reference", "groups"), paper="arXiv 2402.05369", spec="5")
def nca(pairs: PairLogps, *, beta: Positive = 0.01, temperature: Positive = 1e-3) -> Term:
    """sum_k q_k softplus(-r_k) + mean_k softplus(r_k): noise-contrastive alignment of K scored responses. Chen et al.
    2024 (arXiv 2402.05369). At policy = reference: 2 log 2.

    `temperature` is the reciprocal of the paper's alpha. The release adds 0.01 to the first response's score to break
    ties; here equal scores stay equal.
    """
    group = _groups(pairs, "nca", temperature)
    rewards = beta * group.ratios
    return per_pair(
        group.sums(group.labels * softplus(-rewards)) + group.sums(softplus(rewards)) / group.sizes.to(rewards.dtype)
    )


@objective("infonca", of="groups", reads=("reference", "groups"), paper="arXiv 2402.05369", spec="5")
def infonca(pairs: PairLogps, *, beta: Positive = 0.01, temperature: Positive = 1e-3) -> Term:
    """-sum_k q_k log softmax(r)_k: the cross-entropy of the rewards of K responses with their scores. Chen et al. 2024
    (arXiv 2402.05369). With two responses and a sharp label it is dpo; at policy = reference it is log K.
    """
    group = _groups(pairs, "infonca", temperature)
    return per_pair(-group.sums(group.labels * _log_softmax(beta * group.ratios, group.number, len(group.sizes))))


def with_own_groups(pairs: PairLogps) -> PairLogps:
    """The pairs with groups of two made of them: chosen with the score 1, rejected with 0."""
    sides = (pairs.chosen, pairs.rejected)
    longest = max(side.mask.shape[1] for side in sides)

    def joined(name: str) -> Tensor | None:
        values: list[Tensor | None] = [getattr(side, name) for side in sides]
        found = [pad(value, (0, longest - value.shape[1])) for value in values if value is not None]
        return torch.cat(found) if len(found) == len(sides) else None

    policy, mask = joined("policy"), joined("mask")
    assert policy is not None and mask is not None
    number = torch.arange(len(pairs), device=mask.device)
    order = torch.stack([number, number + len(pairs)], dim=1).flatten()  # the two of a pair side by side
    reference = joined("reference")
    rows = ResponseLogps(policy[order], None if reference is None else reference[order], mask[order])
    return replace(
        pairs,
        groups=ResponseGroups(rows, number.repeat_interleave(2), policy.new_tensor([1.0, 0.0]).repeat(len(pairs))),
    )


def _groups(pairs: PairLogps, objective: str, temperature: float) -> _Group:
    if pairs.groups is None:
        raise UserError(
            f"{objective} reads groups of scored responses, and the batch has none",
            hint="set groups.data",
        )
    number, ratios = pairs.groups.group, log_ratio(pairs.groups.responses)
    scores = pairs.groups.scores.detach().to(ratios)
    if wrong := int((~scores.isfinite()).sum()):
        raise UserError(
            f"{objective} reads a score of every response of a group, and {wrong} of {len(scores)} have none (NaN)",
            hint="drop responses without a score",
        )
    count = len(pairs.groups)
    labels = _log_softmax(scores / temperature, number, count).exp()
    return _Group(ratios, labels, number, _sums(torch.ones_like(scores), number, count))


def _sums(values: Tensor, number: Tensor, count: int) -> Tensor:
    return values.new_zeros(count).index_add(0, number, values)


def _log_softmax(values: Tensor, number: Tensor, count: int) -> Tensor:
    """log softmax of each response among those of its group, [r]."""
    top = values.new_full((count,), -torch.inf).scatter_reduce(0, number, values.detach(), "amax")
    shifted = values - top[number]
    return shifted - _sums(shifted.exp(), number, count).log()[number]
