"""The best against the worst of the model's answers by the reward that its own preference training left in it (DICE,
Chen et al. 2024, arXiv:2406.09760).

    reward(y) = β (log π(y) − log π_ref(y)) − α · characters(y)

π is the model of the candidates, π_ref what it was trained from. α takes the length out of the choice: of the grid 0,
0.001, … 1 the first least |mean(characters of the best − of the worst)|, over all pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from mmpo.data_builders.candidates.records import JudgedPicture
from mmpo.data_builders.from_candidates.maker import (
    Made,
    MadePair,
    MakerSettings,
    PairMaker,
    PairSide,
    pair_maker,
)
from mmpo.data_builders.from_candidates.texts import answer_logps
from mmpo.data_builders.units import Advance, finish_units, read_outcomes
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


@pair_maker("implicit_reward", settings=ImplicitRewardSettings)
class ImplicitReward(PairMaker[ImplicitRewardSettings]):
    """A pair a prompt. Which one depends on all other pictures, through α, unless that is given. So the rewards come
    first, a unit of work each shard: `rewards/00000.json …` in the maker's folder."""

    asks: ClassVar[bool] = True
    scores: ClassVar[tuple[str, ...]] = ("reward_chosen", "reward_rejected")

    def prepare(self, shards: int, pictures: Callable[[int], list[JudgedPicture]]) -> None:
        def score(number: int, part: Sequence[int], advance: Advance) -> dict[str, Any]:
            outcomes = [self._rewards(picture) for picture in pictures(number)]
            advance()
            return {"outcomes": outcomes}

        folder = self.context.folder / "rewards"
        self._units = finish_units(folder, range(shards), 1, "scoring answers", lambda _: score)
        scored = [(one["rewards"], one["characters"]) for row in read_outcomes(self._units) for one in row["prompts"]]
        self._alpha = length_alpha(scored) if self.settings.alpha is None else self.settings.alpha

    def make(self, number: int, pictures: Sequence[JudgedPicture], advance: Callable[[], None]) -> list[Made]:
        made: list[Made] = []
        for picture, row in zip(pictures, read_outcomes([self._units[number]]), strict=True):
            pairs = [pair for one in row["prompts"] for pair in self._pair(picture, one)]
            nothing = row["lost"] or ("filter", "equal_rewards", "no answer has a better reward than another")
            made.append(pairs or Quarantined(*nothing))
            advance()
        return made

    def _rewards(self, picture: JudgedPicture) -> dict[str, Any]:
        """The rewards of a picture's usable answers by prompt, as JSON data; `lost` says why there are none."""
        try:
            return {"prompts": self._scored(picture), "lost": None}
        except Quarantined as error:
            return {"prompts": [], "lost": [error.stage, error.reason, error.detail]}

    def _scored(self, picture: JudgedPicture) -> list[dict[str, Any]]:
        """The rewards of each prompt's answers; raises `Quarantined` where no prompt has enough of them."""
        usable = {
            number: tuple(c for c in group if not c.truncated and CHARACTERS[0] < len(c.text) < CHARACTERS[1])
            for number, group in picture.prompts.items()
        }
        usable = {number: group for number, group in usable.items() if len(group) >= self.settings.least_scored}
        if not usable:
            raise Quarantined("filter", "too_few_answers", f"fewer than {self.settings.least_scored} whole ones")
        data = self.context.picture(picture)
        found: list[dict[str, Any]] = []
        for number, group in usable.items():
            texts = [candidate.text for candidate in group]
            policy = [candidate.logp for candidate in group]
            if None in policy:
                policy = [*answer_logps(self.context.engine().vlm, data, group[0].prompt, texts)]
            with self._reference.adapter_off() if self.settings.reference is None else nullcontext():
                reference = answer_logps(self._reference, data, group[0].prompt, texts)
            rewards = implicit_rewards([float(logp or 0.0) for logp in policy], reference, self.settings.beta)
            samples = [candidate.sample for candidate in group]
            characters = [len(text) for text in texts]
            found.append({"number": number, "samples": samples, "rewards": list(rewards), "characters": characters})
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

    def _pair(self, picture: JudgedPicture, one: Mapping[str, Any]) -> list[MadePair]:
        rewards: Sequence[float] = one["rewards"]
        by_sample = {candidate.sample: candidate for candidate in picture.prompts[one["number"]]}
        best, worst = best_and_worst(rewards, one["characters"], self._alpha)
        chosen, rejected = by_sample[one["samples"][best]], by_sample[one["samples"][worst]]
        if best == worst or chosen.text == rejected.text or not separable(rewards, self.settings.beta):
            return []
        pair = MadePair(
            key=f"p{one['number']}s{chosen.sample}x{rejected.sample}",
            prompt=chosen.prompt,
            chosen=PairSide.of(chosen),
            rejected=PairSide.of(rejected),
            about={"alpha": self._alpha, "beta": self.settings.beta, "scored": len(rewards)},
            scores={"reward_chosen": rewards[best], "reward_rejected": rewards[worst]},
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
    if not prompts:
        return 0.0
    rewards = np.full((len(prompts), max(len(own) for own, _ in prompts)), np.nan)
    sizes = np.zeros_like(rewards)
    for row, (own, characters) in enumerate(prompts):
        rewards[row, : len(own)], sizes[row, : len(own)] = own, characters
    rows = np.arange(len(prompts))
    least, found = float("inf"), 0.0
    for alpha in GRID:
        values = rewards - alpha * sizes
        difference = abs(float((sizes[rows, np.nanargmax(values, 1)] - sizes[rows, np.nanargmin(values, 1)]).sum()))
        if difference < least:
            least, found = difference, alpha
        elif difference > least:
            break
    return found
