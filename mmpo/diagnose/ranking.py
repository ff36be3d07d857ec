"""Does a model rank its pairs right: the chosen response at least as probable as the rejected one?

Chen et al. 2024 (Preference learning algorithms do not learn preference rankings, arXiv:2405.19534): trained policies
rank few pairs right, and a reference bounds what the DPO loss can reach.

Shapes: n pairs; log-probs are sums over a response's tokens, in nats. A gap is chosen minus rejected.
"""

from __future__ import annotations

import numpy as np

CLIP = 1e-3
"""A share of raters is kept this far from 0 and 1, where its logit is infinite."""


def right(
    chosen: np.ndarray,
    rejected: np.ndarray,
    chosen_tokens: np.ndarray | None = None,
    rejected_tokens: np.ndarray | None = None,
) -> np.ndarray:
    """[n] bool: the chosen response is at least as probable, or with the numbers of tokens, is so per token."""
    if chosen_tokens is not None and rejected_tokens is not None:
        chosen, rejected = chosen / chosen_tokens, rejected / rejected_tokens
    return np.asarray(chosen >= rejected)


def idealized_right(reference_gap: np.ndarray, beta: float, share: np.ndarray | float) -> np.ndarray:
    """[n] bool: a policy at the very minimum of the DPO loss ranks the pair as the `share` of raters who prefer the
    chosen response does. Its gap is the reference's plus logit(share) / beta."""
    kept = np.clip(share, CLIP, 1 - CLIP)
    gap = reference_gap + np.log(kept / (1 - kept)) / beta
    return np.asarray((gap > 0) == (np.asarray(share) > 0.5))


def flip_distance(policy_gap: np.ndarray, reference_gap: np.ndarray, beta: float) -> np.ndarray:
    """[n] the DPO loss of a pair minus the loss below which the policy ranks it right, softplus(beta reference_gap).
    Below 0 where it does: how far the loss is beyond the threshold; above 0 what it still has to fall."""
    loss = np.logaddexp(0.0, -beta * (policy_gap - reference_gap))
    return np.asarray(loss - np.logaddexp(0.0, beta * reference_gap))
