"""A good candidate against a bad one, both as the model said them (RLAIF-V, Yu et al. 2024, arXiv:2405.17220;
CHAIR-DPO, Compagnoni et al. 2025, arXiv:2508.20181).

Of two candidates for one prompt, (w, l) is admissible if
    (a) l names at least `gap` more absent classes than w,
    (b) w names none,
    (c) every class of w about which the evidence is uncertain is one of l too, so that it is not punished,
    (d) w has between `shortest` and `longest` times the words of l,
    (e) w names something that is there, at least half of what is known to be there, and hardly less of it than l;
        of claims in words one that is right is enough, since nobody can say how many there are,
    (f) both were said to the end.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import combinations, permutations
from typing import Literal

from pydantic import Field, model_validator

from mmpo.data_builders.candidates.records import Candidate, JudgedPicture
from mmpo.data_builders.from_candidates.guards import GuardSettings, PairFacts, rlaif_v_length
from mmpo.data_builders.from_candidates.maker import MadePair, MakerSettings, PairMaker, PairSide, pair_maker
from mmpo.errors import Quarantined

ChosenRejected = tuple[Candidate, Candidate]
"""Chosen, rejected."""


class BestWorstSettings(MakerSettings):
    """A good candidate against a bad one of the same prompt, as the model said them."""

    maker: Literal["best_worst"] = Field("best_worst", description="How pairs are made.")
    gap: int = Field(1, ge=1, description="Absent classes that the rejected side must name beyond the chosen one.")
    pairs_per_prompt: int = Field(2, ge=1, description="Most pairs of one prompt; no candidate is twice on one side.")
    shortest: float = Field(0.8, gt=0, le=1, description="Fewest words of a chosen side for each of the rejected one.")
    longest: float = Field(1.25, ge=1, description="Most words of a chosen side for each of the rejected one.")
    least_recall: float = Field(
        0.5, ge=0, le=1, description="Least share that a chosen side names of the classes known to be there."
    )
    recall_loss: float = Field(
        0.1, ge=0, le=1, description="Most of that share by which a chosen side may be below the rejected one."
    )
    official: Literal["rlaif_v", "chair_dpo"] | None = Field(
        None,
        description="As published, without rules (b) to (f) and without guards: rlaif_v (two random pairs a prompt "
        "that differ in wrong claims, then its filter of length), chair_dpo (samples 1 and 2 by CHAIR_i, where naming "
        "nothing counts as right).",
    )

    @model_validator(mode="after")
    def _as_published(self) -> BestWorstSettings:
        if self.official is not None:
            for name in ("gap", "pairs_per_prompt", "shortest", "longest", "least_recall", "recall_loss"):
                if name in self.model_fields_set and getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"`official: {self.official}` decides `{name}`: leave it out")
            if "guards" not in self.model_fields_set:
                self.guards = GuardSettings.off()
        return self


@pair_maker("best_worst", settings=BestWorstSettings)
class BestWorst(PairMaker[BestWorstSettings]):
    """Pairs of candidates as they are."""

    def pairs_of(self, picture: JudgedPicture) -> list[MadePair]:
        found: list[MadePair] = []
        for number, group in picture.prompts.items():
            found += [self._pair(number, chosen, rejected) for chosen, rejected in self._sides(picture, number, group)]
        if not found:
            raise Quarantined("filter", *self._why_none(picture))
        return found

    @classmethod
    def whole(cls, settings: BestWorstSettings, pairs: Sequence[PairFacts]) -> dict[str, str]:
        if settings.official != "rlaif_v":
            return {}
        return dict.fromkeys(sorted(rlaif_v_length(pairs)[1]), "rlaif_v_length")

    def _sides(self, picture: JudgedPicture, number: int, group: Sequence[Candidate]) -> list[ChosenRejected]:
        if self.settings.official == "chair_dpo":
            return chair_dpo_sides(group)
        if self.settings.official == "rlaif_v":
            draw = random.Random(f"{self.context.seed}/rlaif_v/{picture.id}/{number}")
            return rlaif_v_sides(group, draw)
        return chosen_sides([both for both in permutations(group, 2) if not unfit(both, self.settings)], self.settings)

    def _why_none(self, picture: JudgedPicture) -> tuple[str, str]:
        groups = picture.prompts.values()
        if not any(len(group) > 1 for group in groups):
            return "one_candidate", "a pair takes two candidates of one prompt"
        if not any(candidate.absent for group in groups for candidate in group):
            return "nothing_absent", "no candidate names a class that is known to be absent"
        reasons = [unfit(both, self.settings) for group in groups for both in permutations(group, 2)]
        nearest = min(reasons, key=RULES.index, default="gap") if all(reasons) else "gap"
        return f"no_pair_{nearest}", "no two candidates pass all rules; this one came last"

    def _pair(self, number: int, chosen: Candidate, rejected: Candidate) -> MadePair:
        key = f"p{number}s{chosen.sample}x{rejected.sample}"
        return MadePair(key, chosen.prompt, PairSide.of(chosen), PairSide.of(rejected))


RULES = ("length", "recall", "uncertain", "truncated", "chosen_absent", "gap")
"""What may be against a pair, the last rule to be passed first."""


def unfit(sides: ChosenRejected, settings: BestWorstSettings) -> str:
    """The first of rules (a) to (f) that (chosen, rejected) breaks, as a word of `RULES`; empty for an admissible
    pair."""
    chosen, rejected = sides
    if len(rejected.absent) - len(chosen.absent) < settings.gap:
        return "gap"
    if chosen.absent:
        return "chosen_absent"
    if chosen.truncated or rejected.truncated:
        return "truncated"
    if not chosen.uncertain <= rejected.uncertain:
        return "uncertain"
    least = max(settings.least_recall, (rejected.recall_pool or 0.0) - settings.recall_loss)
    unknown = (
        chosen.recall_pool is None and rejected.recall_pool is not None
    )  # claims in words have none on either side
    if not chosen.present or unknown or (chosen.recall_pool is not None and chosen.recall_pool < least - 1e-9):
        return "recall"
    if not settings.shortest * rejected.words <= chosen.words <= settings.longest * rejected.words:
        return "length"
    return ""


def chosen_sides(admissible: Sequence[ChosenRejected], settings: BestWorstSettings) -> list[ChosenRejected]:
    """Up to `pairs_per_prompt` admissible pairs, the widest gap first, then the least difference in words; a candidate
    at most once on each side."""

    def order(both: ChosenRejected) -> tuple[int, int, int, int]:
        chosen, rejected = both
        gap = len(rejected.absent) - len(chosen.absent)
        return -gap, abs(chosen.words - rejected.words), chosen.sample, rejected.sample

    found: list[ChosenRejected] = []
    for chosen, rejected in sorted(admissible, key=order):
        free = all(chosen is not one and rejected is not other for one, other in found)
        if free and len(found) < settings.pairs_per_prompt:
            found.append((chosen, rejected))
    return found


def rlaif_v_sides(group: Sequence[Candidate], draw: random.Random) -> list[ChosenRejected]:
    """RLAIF-V: of all combinations that differ in the number of wrong claims, two at random, the fewer wrong ones
    chosen."""
    differing = [both for both in combinations(group, 2) if len(both[0].absent) != len(both[1].absent)]
    drawn = draw.sample(differing, min(2, len(differing)))
    return [both if len(both[0].absent) < len(both[1].absent) else (both[1], both[0]) for both in drawn]


def chair_dpo_sides(group: Sequence[Candidate]) -> list[ChosenRejected]:
    """CHAIR-DPO: of samples 1 and 2 the one with the lower CHAIR_i, 0 where nothing judged is named; none for a tie."""
    two = [candidate for candidate in group if candidate.sample in (1, 2)]
    if len(two) < 2 or (first := two[0].chair_i or 0.0) == (second := two[1].chair_i or 0.0):
        return []
    return [(two[0], two[1]) if first < second else (two[1], two[0])]
