"""All of mmpo's selectors, registered by being imported."""

from mmpo.select.curricula import Curry, RankDifference
from mmpo.select.filters import Bootstrap, Consensus, LengthBalance, MinimalEdit
from mmpo.select.ranking import BetaDraw, DualMargin, MarginWeight, OnPolicy, ReferenceGap
from mmpo.select.registry import SELECTORS, SelectorSettings

__all__ = [
    "BetaDraw", "Bootstrap", "Consensus", "Curry", "DualMargin", "LengthBalance", "MarginWeight", "MinimalEdit",
    "OnPolicy", "RankDifference", "ReferenceGap", "own",
]  # fmt: skip

_OWN = dict(SELECTORS)


def own() -> dict[str, type[SelectorSettings]]:
    """Mmpo's own selectors, without asking for plug-ins."""
    return dict(_OWN)
