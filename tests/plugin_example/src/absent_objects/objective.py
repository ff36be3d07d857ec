"""DPO that leaves a pair alone once it is far enough apart."""

from torch.nn.functional import softplus

from mmpo.objectives import Term, objective
from mmpo.objectives.parameters import Positive
from mmpo.objectives.term import log_ratios, per_pair
from mmpo.types import PairLogps


@objective("capped_dpo")
def capped_dpo(pairs: PairLogps, *, beta: Positive = 0.1, cap: Positive = 20.0) -> Term:
    """softplus(-beta min(D, cap)), D the gap of the log-ratios: no gradient from pairs whose gap is above `cap`."""
    return per_pair(softplus(-beta * log_ratios(pairs).gap.clamp(max=cap)))
