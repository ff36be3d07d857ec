"""Divergence of the policy's next-token distributions from the reference's, token by token. How it is computed without
logits kept is in `chunked`.

Shapes: n scored tokens, h hidden, v vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmpo.models.scoring.chunked import chunk_statistics


def token_kl(
    policy: Tensor,
    reference: Tensor,
    head: nn.Module,
    reference_head: nn.Module | None = None,
    *,
    chunk: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """KL(q || p) [n] float32 of q = softmax(reference_head(reference)) and p = softmax(head(policy)), hidden states
    [n, h]; without `reference_head` both share `head`. The gradient reaches the policy and its head alone.

    The sequential KL of TDPO (arXiv 2404.11999) and CHiP (2501.16629) is its sum over a response.
    """
    whole = Divergence()
    (found,) = chunk_statistics([whole], policy, head, reference, reference_head, chunk=chunk, softcap=softcap)
    return found


@dataclass(frozen=True)
class Divergence:
    """See `token_kl`."""

    def value(self, ours: Tensor, theirs: Tensor | None) -> Tensor:
        assert theirs is not None
        q = theirs.exp()
        # 0 log 0 is 0: a probability that underflows must not meet the other's infinite logarithm
        return torch.where(q > 0, q * (theirs - ours), 0.0).sum(dim=-1)

    def slope(self, ours: Tensor, theirs: Tensor | None) -> Tensor:
        assert theirs is not None
        return ours.exp() - theirs.exp()
