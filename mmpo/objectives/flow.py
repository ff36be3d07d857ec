"""A preference as flow through the tree of all responses: what enters a prefix leaves it again, to end or to go on.

Shapes: b pairs, t tokens of a response (padded).
"""

from __future__ import annotations

from torch import Tensor

from mmpo.errors import UserError
from mmpo.objectives.parameters import Positive
from mmpo.objectives.registry import objective
from mmpo.objectives.term import Term, per_pair
from mmpo.types import PairLogps, ResponseLogps

REJECTED_LOG_REWARD = -8.0
"""The log-reward of a rejected response, as released; that of a chosen one is 0."""


@objective("gdpo", rewards=None, reads=("reference", "eos"), paper="arXiv 2410.15096", spec="7")
def gdpo(pairs: PairLogps, *, alpha: Positive = 0.1, gamma: Positive = 0.1) -> Term:
    """The mean over both responses of sum_{t<n} (F_t - F_{t+1} + p_t)^2, with the log-flow F_t = q_t + e_t - f_t; e and
    f are the log-probs of ending there under the reference and the policy, and the last F has alpha times the
    response's log-reward on top, 0 for chosen and -8 for rejected. GDPO (arXiv 2410.15096): detailed balance of a
    GFlowNet.

    q_t is the reference's log-prob of the single token, as in the released code, not of the prefix. There is no term
    at the last token, where that code reads padding. `gamma` is the temperature at which the reference's distribution
    is read for e; scoring applies it.
    """
    chosen = _imbalance(pairs.chosen, 0.0)
    return per_pair((chosen + _imbalance(pairs.rejected, alpha * REJECTED_LOG_REWARD)) / 2)


def _imbalance(response: ResponseLogps, log_reward: float) -> Tensor:
    """The squared balance summed over the places of a response that have one behind them, [b]."""
    if response.reference is None:
        raise UserError("this objective needs reference log-probs, and scoring ran without a reference")
    flow = response.reference + response.read("eos_reference") - response.read("eos_policy")
    flow = flow + log_reward * (response.places == response.lengths[:, None] - 1) * response.mask
    flow, policy, mask = (response.by_place(values) for values in (flow, response.policy, response.mask))
    return ((flow[:, :-1] - flow[:, 1:] + policy[:, :-1]) * mask[:, 1:]).square().sum(-1)
