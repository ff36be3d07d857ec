"""Selectors that drop pairs: by lengths, by several judges, by what a tuned model makes of a prompt's pairs."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import BeforeValidator, Field, model_validator

from mmpo.select.lengths import balanced, debiased_choice, shortest_allowed
from mmpo.select.margins import Mask
from mmpo.select.registry import Choice, ScoreGap, SelectorSettings, as_list, selector
from mmpo.select.table import CHARACTERS, POLICY, REFERENCE, TOKENS, WORDS, PairTable

_UNITS = {"words": WORDS, "characters": CHARACTERS, "tokens": TOKENS}


@selector("length_balance")
class LengthBalance(SelectorSettings):
    """Pairs whose chosen and rejected sides are equally long in the mean, so that length is not what is learnt.

    `set` drops pairs by the largest difference on the longer side; `rlaif_v` is RLAIF-V's filter (arXiv 2405.17220),
    which drops pairs whose chosen side is too short.
    """

    unit: Literal["words", "characters", "tokens"] = Field(
        default="words", description="What lengths are counted in; tokens come with log-probs."
    )
    rule: Literal["set", "rlaif_v"] = Field(default="set", description="How pairs are dropped.")
    within: float = Field(
        default=0.02, ge=0, lt=1, description="set: the means differ by no more than this share of rejected's."
    )
    ratio: tuple[float, float] | None = Field(
        default=None, description="First of all, pairs with chosen / rejected outside of [least, most] go."
    )

    @model_validator(mode="after")
    def _ratio_in_order(self) -> LengthBalance:
        if self.ratio is not None and not 0 <= self.ratio[0] <= self.ratio[1]:
            raise ValueError("ratio: [least, most], such as [0.8, 1.25]")
        return self

    def reads(self) -> tuple[str, ...]:
        return _UNITS[self.unit]

    def choose(self, table: PairTable, seed: int) -> Choice:
        chosen, rejected = (table[name] for name in self.reads())
        outside = np.zeros(table.n, dtype=np.bool_)
        if self.ratio is not None:
            low, high = self.ratio
            outside = (chosen < low * rejected - 1e-9) | (chosen > high * rejected + 1e-9)
        rest = np.flatnonzero(~outside)
        kept = np.zeros(table.n, dtype=np.bool_)
        if self.rule == "set":
            kept[rest] = balanced(chosen[rest], rejected[rest], self.within)
            unbalanced = ~kept & ~outside
            longer = chosen > rejected
            dropped = {
                "ratio": outside, "chosen_longer": unbalanced & longer, "chosen_shorter": unbalanced & ~longer
            }  # fmt: skip
            return Choice(dropped=dropped)
        threshold, kept[rest] = shortest_allowed(chosen[rest], rejected[rest])
        return Choice(dropped={"ratio": outside, "chosen_shorter": ~kept & ~outside}, figures={"r": threshold})


@selector("minimal_edit")
class MinimalEdit(SelectorSettings):
    """Pairs whose two sides differ in a few words, as corrections do (the pairs that BMC, arXiv 2408.07471, builds)."""

    most: float = Field(default=0.5, gt=0, le=1, description="Words to change, over the words of the longer side.")

    def reads(self) -> tuple[str, ...]:
        return ("edit_distance",)

    def choose(self, table: PairTable, seed: int) -> Choice:
        return Choice(dropped={"too_different": table["edit_distance"] > self.most})


@selector("consensus")
class Consensus(SelectorSettings):
    """Pairs that several judges order alike. A judge without scores of a pair, or with equal ones, abstains."""

    abstains: ClassVar[bool] = True

    judges: Annotated[list[ScoreGap], BeforeValidator(as_list)] = Field(
        min_length=1, description="The scores of each judge."
    )
    least: int = Field(default=2, ge=1, description="Judges that must prefer the chosen response.")
    against: int = Field(default=0, ge=0, description="Judges that may prefer the rejected one.")

    @model_validator(mode="after")
    def _enough_judges(self) -> Consensus:
        if self.least > len(self.judges):
            raise ValueError(f"least: {self.least} of {len(self.judges)} judges can't agree")
        return self

    def reads(self) -> tuple[str, ...]:
        return tuple(name for judge in self.judges for name in judge.columns())

    def gaps(self) -> tuple[ScoreGap, ...]:
        return tuple(self.judges)

    def choose(self, table: PairTable, seed: int) -> Choice:
        gaps = [np.nan_to_num(judge.of(table)) for judge in self.judges]
        votes_for = np.sum([gap > 0 for gap in gaps], axis=0)
        votes_against = np.sum([gap < 0 for gap in gaps], axis=0)
        return Choice(dropped={"dissent": votes_against > self.against, "few_votes": votes_for < self.least})


@selector("bootstrap")
class ImplicitChoice(SelectorSettings):
    """Of several pairs of a prompt the one of which a tuned model's implicit reward is surest, debiased by length:
    DICE (arXiv 2406.09760).

    Its value is beta D - alpha (characters of chosen - of rejected), alpha such that what is chosen is evenly long.
    """

    beta: float = Field(default=0.1, gt=0, description="The beta that the model was tuned with.")
    debias: bool = Field(default=True, description="false: alpha is 0.")
    least: int = Field(default=1, ge=1, description="Prompts with fewer pairs than this are dropped.")
    characters: tuple[int, int] = Field(
        default=(4, 6699), description="Fewest and most characters of a response; others are dropped."
    )

    def reads(self) -> tuple[str, ...]:
        return (*POLICY, *REFERENCE, *CHARACTERS, "unfinished", "prompt")

    def choose(self, table: PairTable, seed: int) -> Choice:
        assert table.prompts is not None
        chosen, rejected = (table[name] for name in CHARACTERS)
        low, high = self.characters
        odd = (np.minimum(chosen, rejected) < low) | (np.maximum(chosen, rejected) > high)
        dropped: dict[str, Mask] = {"unfinished": table["unfinished"] > 0, "characters": odd}
        margin, difference = self.beta * table.implicit(), chosen - rejected
        rest = ~dropped["unfinished"] & ~odd
        _, group = np.unique(table.prompts, return_inverse=True)
        few = np.bincount(group, weights=rest, minlength=group.max(initial=-1) + 1)[group] < self.least
        dropped["few_pairs"] = few
        places = np.flatnonzero(rest & ~few)
        lengths = difference[places] if self.debias else np.zeros(len(places))
        alpha, best = debiased_choice(margin[places], lengths, table.prompts[places])
        not_best = np.zeros(table.n, dtype=np.bool_)
        not_best[places[~best]] = True
        dropped["not_best"] = not_best
        dropped["reversed"] = margin - alpha * difference <= 0  # the model would have the pair the other way round
        return Choice(dropped=dropped, figures={"alpha": alpha})
