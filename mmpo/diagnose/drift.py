"""How far a policy has gone from its reference, and whether length went with it. Log-probs in nats."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ScoredSample:
    """An answer that the policy wrote: its log-probs under policy and reference, and its number of tokens."""

    policy: float
    reference: float
    tokens: int


@dataclass(frozen=True)
class SampledDivergence:
    """KL(policy || reference) as the mean of log pi - log pi_ref over the policy's own answers, for an answer and for
    one of its tokens."""

    nats: float
    nats_per_token: float


def divergence(samples: Sequence[ScoredSample]) -> SampledDivergence:
    """Raises ValueError without samples."""
    if not samples:
        raise ValueError("a divergence needs samples")
    apart = math.fsum(one.policy - one.reference for one in samples)
    return SampledDivergence(apart / len(samples), apart / max(1, sum(one.tokens for one in samples)))
