"""Selectors that rank pairs by margins and keep the best."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import BeforeValidator, Field, model_validator

from mmpo.errors import UserError
from mmpo.select.margins import drawn_keys, fused, probability, tail
from mmpo.select.registry import Choice, Keep, ScoreGap, SelectorSettings, as_list, selector
from mmpo.select.table import ALIGNMENT, POLICY, REFERENCE, TOKENS, PairTable


@selector("dual_margin")
class DualMargin(SelectorSettings):
    """Pairs that both scores and a tuned model are sure of: Less is More (arXiv 2502.14560).

    The external margin is a gap of scores; the implicit one is DPO's margin (without beta) of a model that was tuned on
    some of the pairs. `bayes` clips each to [low, M2], where M2 cuts off the tail of outliers, and fuses the two
    probabilities; `sum` adds the margins.
    """

    ranks: ClassVar[bool] = True

    external: Annotated[list[ScoreGap], BeforeValidator(as_list)] = Field(
        default_factory=lambda: [ScoreGap()], description="Gaps of scores, one or several; [] for none."
    )
    implicit: bool = Field(default=True, description="Read the implicit margin too.")
    average: bool = Field(
        default=False, description="Implicit margins by token. Sums, as in the paper, prefer pairs of long responses."
    )
    fusion: Literal["bayes", "sum"] = Field(default="bayes", description="How the margins become one number.")
    low: float = Field(default=-2.0, description="M1: margins below count as this.")
    tail: int = Field(default=30, ge=1, description="M2 is the smallest margin with fewer than this many above it.")
    keep: Keep = Field(default=0.1, description="Share (or number) of pairs kept; 0.25 in the paper's online rounds.")

    @model_validator(mode="after")
    def _some_margin(self) -> DualMargin:
        if not self.external and not self.implicit:
            raise ValueError("neither an external nor an implicit margin")
        return self

    def reads(self) -> tuple[str, ...]:
        logps = (*POLICY, *REFERENCE, *(TOKENS if self.average else ())) if self.implicit else ()
        return (*(name for gap in self.external for name in gap.columns()), *logps)

    def gaps(self) -> tuple[ScoreGap, ...]:
        return tuple(self.external)

    def choose(self, table: PairTable, seed: int) -> Choice:
        margins = {gap.label: gap.of(table) for gap in self.external}
        if self.implicit:
            margins["implicit"] = table.implicit(average=self.average)
        if self.fusion == "sum":
            return Choice(values=np.sum(list(margins.values()), axis=0))
        highs = {name: tail(values, self.tail) for name, values in margins.items() if len(values)}
        for name, high in highs.items():
            if high <= self.low:
                raise UserError(
                    f"dual_margin: the margins {name} end at {high:g}, not above low: {self.low:g}",
                    hint="set low below most margins, or fusion: sum",
                )
        sure = [probability(margins[name], self.low, high) for name, high in highs.items()]
        figures = {f"M2 of {name}": high for name, high in highs.items()}
        return Choice(values=fused(sure) if sure else np.zeros(0), figures=figures)


@selector("reference_gap")
class ReferenceGap(SelectorSettings):
    """Pairs whose two responses the reference tells apart clearly, whichever it prefers: reference-guided sampling.

    Ranked by |d_r|, the gap of the reference's log-probs (the paper's abstract says no more; 30 to 50 % of the data
    did as well as all).
    """

    ranks: ClassVar[bool] = True

    average: bool = Field(default=True, description="Log-probs by token; sums select by length.")
    sign: Literal["both", "agree"] = Field(
        default="both", description="agree: only pairs whose chosen response the reference prefers."
    )
    keep: Keep = Field(default=0.4, description="Share (or number) of pairs kept.")

    def reads(self) -> tuple[str, ...]:
        return (*REFERENCE, *(TOKENS if self.average else ()))

    def choose(self, table: PairTable, seed: int) -> Choice:
        gap = table.reference_gap(average=self.average)
        dropped = {"reference_disagrees": ~(gap > 0)} if self.sign == "agree" else {}
        return Choice(dropped=dropped, values=np.abs(gap))


@selector("beta_dpo")
class BetaDraw(SelectorSettings):
    """A draw that prefers pairs whose implicit margin is near the mean: the filter of beta-DPO (arXiv 2407.08639).

    Weights exp(-((D - M) / S)^2 / 2), M and S over all pairs, drawn without replacement.
    """

    ranks: ClassVar[bool] = True

    keep: Keep = Field(default=0.8, description="Share (or number) of pairs drawn.")

    def reads(self) -> tuple[str, ...]:
        return (*POLICY, *REFERENCE)

    def choose(self, table: PairTable, seed: int) -> Choice:
        if not table.n:
            return Choice(values=np.zeros(0))
        gaps = table.implicit()
        found = {"M": float(gaps.mean()), "S": float(gaps.std(ddof=1)) if table.n > 1 else 0.0}
        return Choice(values=drawn_keys(gaps, np.random.default_rng(seed)), figures=found)


@selector("wpo")
class OnPolicy(SelectorSettings):
    """Pairs that the policy itself would write: the weight of WPO (arXiv 2406.11827), which becomes a score.

    u = exp(mean over tokens of log pi(y_t) - log sum_v pi(v)^2) of chosen times that of rejected.
    """

    ranks: ClassVar[bool] = True

    keep: Keep = Field(default=1.0, description="Share (or number) of pairs kept, by the greatest weight.")

    def reads(self) -> tuple[str, ...]:
        return ALIGNMENT

    def choose(self, table: PairTable, seed: int) -> Choice:
        weight = np.exp(np.minimum(table[ALIGNMENT[0]] + table[ALIGNMENT[1]], 80.0))
        return Choice(values=weight, columns={"wpo_weight": weight})


@selector("madpo")
class MarginWeight(SelectorSettings):
    """Pairs that a reward model finds hard, the weight of MADPO (arXiv 2510.05342), which becomes a score.

    w = sigmoid(c h) / sigmoid(h) of the gap h of its rewards, in logits; above 1 for gaps below `tau`.
    """

    ranks: ClassVar[bool] = True

    gap: ScoreGap = Field(default_factory=ScoreGap, description="The scores whose gap is h.")
    c_min: float = Field(default=0.5, gt=0, lt=1)
    c_max: float = Field(default=2.0, gt=1)
    lam: float = Field(default=1.0, ge=0)
    tau: float = Field(default=2.0, gt=0)
    reward_scale: float = Field(default=1.0, gt=0, description="Factor that turns the scores into logits.")
    keep: Keep = Field(default=1.0, description="Share (or number) of pairs kept, by the greatest weight.")

    def reads(self) -> tuple[str, ...]:
        return self.gap.columns()

    def gaps(self) -> tuple[ScoreGap, ...]:
        return (self.gap,)

    def choose(self, table: PairTable, seed: int) -> Choice:
        import torch

        from mmpo.objectives.pair_weights import margin_weight
        from mmpo.types import PairLogps, ResponseLogps

        gap = torch.from_numpy(self.gap.of(table))
        blank = ResponseLogps(policy=gap.new_zeros(len(gap), 1), reference=None, mask=gap.new_ones(len(gap), 1).bool())
        pairs = PairLogps(chosen=blank, rejected=blank, scores={"chosen": gap, "rejected": torch.zeros_like(gap)})
        how = self.model_dump(include={"c_min", "c_max", "lam", "tau", "reward_scale"})
        weight = margin_weight(pairs, **how).numpy()
        return Choice(values=weight, columns={"madpo_weight": weight})
