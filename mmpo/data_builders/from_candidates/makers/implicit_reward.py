"""The best against the worst of the model's answers by the reward that its own preference training left in it (DICE,
Chen et al. 2024, arXiv:2406.09760).

    reward(y) = β (log π(y) − log π_ref(y)) − α · characters(y)

π is the model of the candidates, π_ref what it was trained from. α takes the length out of the choice: of the grid 0,
0.001, … 1 the first least |mean(characters of the best − of the worst)|, over the pictures of a unit of work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from mmpo.data_builders.candidates.records import Candidate, JudgedPicture
from mmpo.data_builders.from_candidates.maker import (
    Made,
    MadePair,
    MakerSettings,
    PairMaker,
    PairSide,
    pair_maker,
)
from mmpo.data_builders.from_candidates.texts import answer_logps
from mmpo.errors import Quarantined, UserError
from mmpo.settings import MODEL

if TYPE_CHECKING:
    from mmpo.models.families.loading import VLM

GRID = tuple(step / 1000 for step in range(1001))
CHARACTERS = (3, 6700)
"""A scored answer has more than the first number of characters and fewer than the second."""
ROUNDING = 0.01
"""Nats by which two sums of log-probs of the same model may differ when they are computed in another batch."""


class ImplicitRewardSettings(MakerSettings):
    """The best against the worst answer by β (log π − log π_ref), length taken out (DICE)."""

    maker: Literal["implicit_reward"] = Field("implicit_reward", description="How pairs are made.")
    reference: Annotated[str | None, MODEL] = Field(
        None,
        description="The model that the candidates' model was trained from. Empty: that model without its adapter.",
    )
    beta: float = Field(0.1, gt=0, description="The β that it was trained with.")
    alpha: float | None = Field(
        None, ge=0, description="Reward that a character costs. Empty: what makes both sides equally long in the mean."
    )
    least_scored: int = Field(8, ge=2, description="Fewest usable answers of a prompt.")


@dataclass(frozen=True)
class ScoredAnswers:
    """The usable answers to one prompt of the picture `number` of a unit, and the implicit reward of each."""

    number: int
    prompt_number: int
    candidates: tuple[Candidate, ...]
    rewards: tuple[float, ...]

    @property
    def characters(self) -> tuple[int, ...]:
        return tuple(len(candidate.text) for candidate in self.candidates)


@pair_maker("implicit_reward", settings=ImplicitRewardSettings)
class ImplicitReward(PairMaker[ImplicitRewardSettings]):
    """A pair a prompt. Which one depends on the unit's other pictures, through α, unless that is given."""

    asks: ClassVar[bool] = True
    scores: ClassVar[tuple[str, ...]] = ("reward_chosen", "reward_rejected")

    def make(self, number: int, pictures: Sequence[JudgedPicture], advance: Callable[[], None]) -> list[Made]:
        scored: list[ScoredAnswers] = []
        lost: dict[int, Quarantined] = {}
        for place, picture in enumerate(pictures):
            try:
                scored += self._scored(place, picture)
            except Quarantined as error:
                lost[place] = error
            advance()
        alpha = self.settings.alpha
        if alpha is None:
            alpha = length_alpha([(one.rewards, one.characters) for one in scored])
        made: list[list[MadePair]] = [[] for _ in pictures]
        for one in scored:
            made[one.number] += self._pair(one, alpha)
        equal = Quarantined("filter", "equal_rewards", "no answer has a better reward than another")
        return [lost.get(place) or pairs or equal for place, pairs in enumerate(made)]

    def _scored(self, place: int, picture: JudgedPicture) -> list[ScoredAnswers]:
        """The rewards of a picture's answers; raises `Quarantined` where no prompt has enough of them."""
        usable = {
            number: tuple(c for c in group if not c.truncated and CHARACTERS[0] < len(c.text) < CHARACTERS[1])
            for number, group in picture.prompts.items()
        }
        usable = {number: group for number, group in usable.items() if len(group) >= self.settings.least_scored}
        if not usable:
            raise Quarantined("filter", "too_few_answers", f"fewer than {self.settings.least_scored} whole ones")
        data = self.context.picture(picture)
        found = []
        for number, group in usable.items():
            texts = [candidate.text for candidate in group]
            policy = [candidate.logp for candidate in group]
            if None in policy:
                policy = [*answer_logps(self.context.engine().vlm, data, group[0].prompt, texts)]
            with self._reference.adapter_off() if self.settings.reference is None else nullcontext():
                reference = answer_logps(self._reference, data, group[0].prompt, texts)
            rewards = implicit_rewards([float(logp or 0.0) for logp in policy], reference, self.settings.beta)
            found.append(ScoredAnswers(place, number, group, rewards))
        return found

    @cached_property
    def _reference(self) -> VLM:
        if self.settings.reference is None:
            from peft import PeftModel

            vlm = self.context.engine().vlm
            if not isinstance(vlm.model, PeftModel):
                raise UserError(
                    f"{vlm.source} has no adapter: nothing says what it was trained from",
                    hint="name the model before training in pairs.reference",
                )
            return vlm
        from mmpo.models.families.loading import load_vlm

        vlm = load_vlm(self.settings.reference)
        vlm.model.eval()
        return vlm

    def _pair(self, one: ScoredAnswers, alpha: float) -> list[MadePair]:
        best, worst = best_and_worst(one.rewards, one.characters, alpha)
        chosen, rejected = one.candidates[best], one.candidates[worst]
        if best == worst or chosen.text == rejected.text or not separable(one.rewards, self.settings.beta):
            return []
        pair = MadePair(
            key=f"p{one.prompt_number}s{chosen.sample}x{rejected.sample}",
            prompt=chosen.prompt,
            chosen=PairSide.of(chosen),
            rejected=PairSide.of(rejected),
            about={"alpha": alpha, "beta": self.settings.beta, "scored": len(one.candidates)},
            scores={"reward_chosen": one.rewards[best], "reward_rejected": one.rewards[worst]},
        )
        return [pair]


def implicit_rewards(policy: Sequence[float], reference: Sequence[float], beta: float) -> tuple[float, ...]:
    """β (log π − log π_ref) of each answer, from sums over its tokens (Rafailov et al. 2023, equation 5 without the
    term that all answers to a prompt share)."""
    return tuple(beta * (own - before) for own, before in zip(policy, reference, strict=True))


def separable(rewards: Sequence[float], beta: float) -> bool:
    """Whether rewards differ by more than rounding does: a model that was not trained since has none."""
    return max(rewards) - min(rewards) > beta * ROUNDING


def best_and_worst(rewards: Sequence[float], characters: Sequence[int], alpha: float) -> tuple[int, int]:
    """The places of the best and the worst answer by reward − α · characters; of equal ones the first."""
    values = np.asarray(rewards, dtype=np.float64) - alpha * np.asarray(characters, dtype=np.float64)
    return int(values.argmax()), int(values.argmin())


def length_alpha(prompts: Sequence[tuple[Sequence[float], Sequence[int]]]) -> float:
    """The α of the grid at which the best answers are as long as the worst, in the mean over (rewards, characters) of
    the prompts. The grid is walked from 0 and left where the difference grows again, as in the released code."""
    least, found = float("inf"), 0.0
    for alpha in GRID:
        places = [(sizes, best_and_worst(rewards, sizes, alpha)) for rewards, sizes in prompts]
        difference = abs(sum(sizes[best] - sizes[worst] for sizes, (best, worst) in places))
        if difference < least:
            least, found = difference, alpha
        elif difference > least:
            break
    return found
