"""Numbers of a token's distribution over the vocabulary that objectives read: tails of divergences, sums of squares,
entropies, log-probs of the end token. How they are computed without logits kept is in `chunked`.

Shapes: n scored tokens, h hidden, v vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmpo.models.scoring.chunked import chunk_statistics, normalized


def token_tail_kl(
    policy: Tensor,
    reference: Tensor,
    head: nn.Module,
    reference_head: nn.Module | None = None,
    *,
    mu: float = 0.95,
    chunk: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """sum_v q_v delta_v [delta_v > its quantile at level 1 - mu] [n] float32, delta = log q - log p, of q =
    softmax(reference_head(reference)) and p = softmax(head(policy)), hidden states [n, h]. Ra-DPO, arXiv 2505.20359.

    The quantile is that of the v numbers, whatever probability they carry, with linear interpolation. Which tokens are
    above it is a constant to the gradient, which reaches the policy and its head alone.
    """
    tail = TailDivergence(mu)
    (found,) = chunk_statistics([tail], policy, head, reference, reference_head, chunk=chunk, softcap=softcap)
    return found


def token_log_sum_squares(
    policy: Tensor, head: nn.Module, *, chunk: int | None = None, softcap: float | None = None
) -> Tensor:
    """log sum_v p_v^2 [n] float32 of p = softmax(head(policy)): the expected probability of a token that p itself
    writes, as WPO weighs by (arXiv 2406.11827). A constant to the gradient."""
    (found,) = chunk_statistics([LogSumSquares()], policy.detach(), head, chunk=chunk, softcap=softcap)
    return found


def token_entropy(policy: Tensor, head: nn.Module, *, chunk: int | None = None, softcap: float | None = None) -> Tensor:
    """-sum_v p_v log p_v [n] float32 of p = softmax(head(policy))."""
    (found,) = chunk_statistics([Entropy()], policy, head, chunk=chunk, softcap=softcap)
    return found


def token_eos_logp(
    policy: Tensor,
    head: nn.Module,
    eos: int,
    *,
    temperature: float = 1.0,
    chunk: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """log p_eos [n] float32 of p = softmax(head(policy) / temperature): how likely each place ends the response. GDPO,
    arXiv 2410.15096."""
    (found,) = chunk_statistics([EndLogp(eos, temperature)], policy, head, chunk=chunk, softcap=softcap)
    return found


@dataclass(frozen=True)
class TailDivergence:
    """See `token_tail_kl`."""

    mu: float = 0.95

    def value(self, ours: Tensor, theirs: Tensor | None) -> Tensor:
        assert theirs is not None
        difference = theirs - ours
        return self._tail(difference, theirs).mul_(difference).sum(dim=-1)

    def slope(self, ours: Tensor, theirs: Tensor | None) -> Tensor:
        assert theirs is not None
        return normalized(self._tail(theirs - ours, theirs).neg_(), ours)

    def _tail(self, difference: Tensor, theirs: Tensor) -> Tensor:
        """The reference's probabilities where the difference is above its quantile, 0 elsewhere, [rows, v].

        An interpolated quantile lies between two neighbours in order and short of the upper one, so what is above it is
        what is above the lower one: one selection, no sorting. Their places are counted to the sixth decimal: 1 - mu
        has errors of its own in the last.
        """
        place = math.floor(round((1 - self.mu) * (difference.shape[-1] - 1), 6))
        lower = difference.kthvalue(place + 1, dim=-1, keepdim=True).values
        return torch.where(difference > lower, theirs.exp(), 0.0)


@dataclass(frozen=True)
class LogSumSquares:
    """See `token_log_sum_squares`."""

    def value(self, ours: Tensor, theirs: Tensor | None) -> Tensor:
        return (2 * ours).logsumexp(dim=-1)

    def slope(self, ours: Tensor, theirs: Tensor | None) -> Tensor:
        return 2 * ((2 * ours).softmax(dim=-1) - ours.exp())


@dataclass(frozen=True)
class Entropy:
    """See `token_entropy`."""

    def value(self, ours: Tensor, theirs: Tensor | None) -> Tensor:
        return -(ours.exp() * ours).sum(dim=-1)

    def slope(self, ours: Tensor, theirs: Tensor | None) -> Tensor:
        return normalized(-ours.exp() * (ours + 1), ours)


@dataclass(frozen=True)
class EndLogp:
    """See `token_eos_logp`."""

    eos: int
    temperature: float = 1.0

    def value(self, ours: Tensor, theirs: Tensor | None) -> Tensor:
        return self._cooled(ours)[:, self.eos]

    def slope(self, ours: Tensor, theirs: Tensor | None) -> Tensor:
        by_logit = self._cooled(ours).exp().neg_()
        by_logit[:, self.eos] += 1
        return by_logit / self.temperature

    def _cooled(self, ours: Tensor) -> Tensor:
        # a log-softmax differs from its logits by a constant a row, which this second one takes out again
        return ours if self.temperature == 1 else (ours / self.temperature).log_softmax(dim=-1)
