"""Mmpo's own selectors by name; importing this registers them."""

from mmpo.select.curricula import Curry, RankDifference
from mmpo.select.filters import Consensus, ImplicitChoice, LengthBalance, MinimalEdit
from mmpo.select.ranking import BetaDraw, DualMargin, MarginWeight, OnPolicy, ReferenceGap
from mmpo.select.registry import SelectorSettings

OWN: dict[str, type[SelectorSettings]] = {
    "dual_margin": DualMargin,
    "reference_gap": ReferenceGap,
    "beta_dpo": BetaDraw,
    "wpo": OnPolicy,
    "madpo": MarginWeight,
    "length_balance": LengthBalance,
    "minimal_edit": MinimalEdit,
    "consensus": Consensus,
    "bootstrap": ImplicitChoice,
    "curry": Curry,
    "rank_difference": RankDifference,
}
