"""A given good answer against the model's own (SPRec, Gao et al. 2024, arXiv:2412.09243; as SPIN, Chen et al. 2024,
arXiv:2401.01335): self-play. Round by round the own answer comes nearer to the given one; where they are the same
there is nothing left to learn, and no pair.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mmpo.data.pair import placeholder_in
from mmpo.data_builders.candidates.records import JudgedPicture
from mmpo.data_builders.from_candidates.maker import MadePair, MakerSettings, PairMaker, PairSide, pair_maker
from mmpo.data_builders.video.choose import normalized
from mmpo.errors import Quarantined


class SelfPlaySettings(MakerSettings):
    """A given answer against the model's own answer to the same prompt (SPRec)."""

    maker: Literal["self_play"] = Field("self_play", description="How pairs are made.")
    pairs_per_prompt: int = Field(1, ge=1, description="Most own answers that one given answer is set against.")


@pair_maker("self_play", settings=SelfPlaySettings)
class SelfPlay(PairMaker[SelfPlaySettings]):
    """Pairs of the list's answers with candidates, the greedy one first."""

    def pairs_of(self, picture: JudgedPicture) -> list[MadePair]:
        found: list[MadePair] = []
        reason = "no_answer"
        for number, group in picture.prompts.items():
            answer = group[0].answer
            if answer is None or not answer.strip() or placeholder_in(answer):
                continue
            whole = [candidate for candidate in group if not candidate.truncated]
            other = [candidate for candidate in whole if normalized(candidate.text) != normalized(answer)]
            if not other:
                reason = "same_answer" if whole else "unfinished"
            found += [
                MadePair(
                    key=f"p{number}x{candidate.sample}",
                    prompt=candidate.prompt,
                    chosen=PairSide(answer),
                    rejected=PairSide.of(candidate),
                    kind="answer",
                    free_length=True,  # the given answers are what is to be learnt, their length too
                    about={"given": True},
                )
                for candidate in other[: self.settings.pairs_per_prompt]
            ]
        if not found:
            raise Quarantined("filter", reason, "no prompt has a given answer that the model did not give itself")
        return found
