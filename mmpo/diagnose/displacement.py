"""Where the probability goes: chosen responses that fall with the rejected ones, and answers that are neither.

Razin et al. 2024 (Unintentional unalignment, arXiv:2410.08847) for CHES; Yan et al. 2024 (3D-properties of DPO,
arXiv:2406.07327) for the drop of the rejected response, the growth of unseen ones, and the ratio of gradients.

Shapes: n pairs, t tokens of a response (padded), h hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Ches:
    """CHES scores [n]: `raw`, `normalized` by length, and that `relative` to the chosen side's own |mean h_w|^2, which
    does not depend on the scale of a model's states: 0 where both sides have the same mean state."""

    raw: np.ndarray
    normalized: np.ndarray
    relative: np.ndarray


def summed(states: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """[n, h] the sums of states [n, t, h] where `mask` [n, t] is True: padding never counts."""
    return np.asarray(np.where(mask[..., None], states, 0.0).sum(axis=1))


def ches(chosen: np.ndarray, rejected: np.ndarray, chosen_tokens: np.ndarray, rejected_tokens: np.ndarray) -> Ches:
    """The centred hidden embedding similarity of responses, from their summed states [n, h]: those of the last layer
    that predict a token, from the last of the prompt to the last but one of the response.

    <sum h_w, sum h_l> - |sum h_w|^2; by length the first over n_w n_l, the second over n_w^2. The higher, the more
    alike the sides are to the model, and the more the chosen one falls in training.
    """
    both = (chosen * rejected).sum(axis=1)
    own = (chosen * chosen).sum(axis=1)
    normalized = both / (chosen_tokens * rejected_tokens) - own / np.square(chosen_tokens)
    scale = own / np.square(chosen_tokens)
    relative = np.divide(normalized, scale, out=np.full(len(scale), np.nan), where=scale > 0)
    return Ches(both - own, normalized, relative)


def log_gradient_ratio(chosen: np.ndarray, rejected: np.ndarray) -> np.ndarray:
    """[n] log of |dl/dpi_l| / |dl/dpi_w| of the DPO loss by the two probabilities, which is pi_w / pi_l: far above 0
    the step takes from the rejected response far more than it gives to the chosen one."""
    return np.asarray(chosen - rejected)


def log_field_ratio(chosen_ratio: np.ndarray, rejected_ratio: np.ndarray) -> np.ndarray:
    """[n] log of |dl/dx_w| / |dl/dx_l|, which is x_l / x_w, for the likelihood ratios x = pi / pi_ref; the arguments
    are their logarithms (Feng et al. 2024, arXiv:2404.04626)."""
    return np.asarray(rejected_ratio - chosen_ratio)


def unseen_growth(policy: Sequence[float], reference: Sequence[float]) -> float:
    """The growth, in nats, of the mass of some answers to one prompt, from their log-probs under both models: of
    different sampled answers that are neither the chosen nor the rejected one."""
    return float(np.logaddexp.reduce(np.asarray(policy)) - np.logaddexp.reduce(np.asarray(reference)))
