"""A candidate against itself with its mistakes edited out (after HA-DPO, Zhao et al. 2023, arXiv:2311.16839): what the
builder `hallucination_pairs` does with annotations, with verdicts of three values. Absent classes come out, what is put
in their place must be present, and what is uncertain stays on both sides, so that nothing is learnt about it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

import mmpo
from mmpo.chat.settings import ChatSettings
from mmpo.data_builders.candidates.records import Candidate, JudgedPicture, pool_of, recall_pool
from mmpo.data_builders.from_candidates.maker import (
    Made,
    MadePair,
    MakerContext,
    MakerSettings,
    PairMaker,
    PairSide,
    pair_maker,
)
from mmpo.data_builders.from_candidates.truths import truth_of_picture
from mmpo.errors import Quarantined
from mmpo.text.claims import claimed, split_sentences
from mmpo.text.scene_claims import ClaimKind

if TYPE_CHECKING:
    from mmpo.data_builders.hallucination.description_pairs import SourceImage


class EditedSettings(MakerSettings):
    """A candidate against itself with its mistakes edited out; one writer words both sides."""

    needs_classes: ClassVar[bool] = True

    maker: Literal["edited"] = Field("edited", description="How pairs are made.")
    candidates: int = Field(
        default=3, ge=1, description="Most candidates of a prompt that are edited, the greedy one first."
    )
    add_missed: Literal["none", "balance"] = Field(
        "balance", description="Put in as many present classes that were left out as absent ones come out, or none."
    )
    omission_share: float = Field(
        default=1.0,
        ge=0,
        le=4,
        description="For each description, once right, so many pairs whose rejected side leaves out a present class. "
        "Keeps the model from learning only to say less; 0 builds none.",
    )
    variants: int = Field(default=1, ge=1, description="Wordings of both sides of each pair.")
    rewrite: bool = Field(True, description="Let one writer word both sides, so that style does not tell them apart.")
    writer: ChatSettings | None = Field(
        None, description="A text model that rewrites both sides. Left out: rules, with the same choices for both."
    )
    changed_weight: float | None = Field(
        default=None,
        ge=0,
        description="Weight of the characters in which the sides differ, for objectives with token weights.",
    )


class EditOptions:
    """The settings as the editing of descriptions reads them (`EditSettings`)."""

    builder = "pairs_from_candidates"
    correct: Sequence[ClaimKind] = ("object",)  # numbers and places are not known, colours neither
    exhaustive = False
    correction: Literal["edit"] = "edit"
    min_area = 0.0
    pairs_per_image: int | None = None

    def __init__(self, settings: EditedSettings, seed: int) -> None:
        self.seed = seed
        self.rewrite, self.add_missed = settings.rewrite, settings.add_missed
        self.omission_share, self.variants = settings.omission_share, settings.variants
        self.changed_weight = settings.changed_weight


@pair_maker("edited", settings=EditedSettings)
class EditedCandidates(PairMaker[EditedSettings]):
    """Pairs of candidates and their corrected selves, and of right descriptions and the same with something left out.
    How the model words things is learnt from all candidates of a unit."""

    def __init__(self, settings: EditedSettings, context: MakerContext) -> None:
        from mmpo.data_builders.hallucination.description_pairs import Describer
        from mmpo.data_builders.hallucination.judges import Rewriter

        super().__init__(settings, context)
        rewriter = None if settings.writer is None else Rewriter(context.chat(settings.writer), "ha_dpo_rewrite")
        self.describer = Describer(
            EditOptions(settings, context.seed), context.vocabulary, mmpo.__version__, rewriter=rewriter
        )

    def make(self, number: int, pictures: Sequence[JudgedPicture], advance: Callable[[], None]) -> list[Made]:
        from mmpo.data_builders.hallucination.description_pairs import HallucinationCounts

        sources = {picture.id: self._sources(picture) for picture in pictures}
        tally = HallucinationCounts()
        self.describer.pairs([source for own in sources.values() for source, _ in own], tally)
        found: list[Made] = []
        for picture in pictures:
            made = [
                pair for source, group in sources[picture.id] for row in source.pairs
                if (pair := self._pair(picture, group, row)) is not None
            ]  # fmt: skip
            found.append(made or self._why_none(picture, sources[picture.id]))
            advance()
        return found

    def _sources(self, picture: JudgedPicture) -> list[tuple[SourceImage, Sequence[Candidate]]]:
        """For each prompt the candidates to edit, with what is known about the picture."""
        from dataclasses import replace

        from mmpo.data_builders.hallucination.description_pairs import SourceImage

        truth = truth_of_picture(picture)
        found: list[tuple[SourceImage, Sequence[Candidate]]] = []
        for number, group in picture.prompts.items():
            own = group[: self.settings.candidates]
            image = replace(truth.image, id=f"{picture.image}/p{number}")
            known = replace(truth, image=image)
            texts = [(one.text, one.truncated) for one in own]
            size = (picture.width, picture.height)
            found.append((SourceImage(image, b"", size, known, own[0].prompt, texts), own))
        return found

    def _pair(self, picture: JudgedPicture, group: Sequence[Candidate], row: Mapping[str, Any]) -> MadePair | None:
        """The pair of a row; None where the sides differ in something uncertain: an edit took it along."""
        about = dict(row["provenance"])
        sample = group[int(about["sample"])].sample
        pool = pool_of(picture.candidates)
        chosen, rejected = (
            self._side(picture, row[side], sample, pool, row.get(f"{side}_weights")) for side in ("chosen", "rejected")
        )
        unknown = chosen.names | rejected.names
        if chosen.uncertain != rejected.uncertain or chosen.absent or not unknown <= picture.opinions.keys():
            return None
        for name in ("builder", "version", "source", "seed", "kind"):
            about.pop(name, None)
        key = str(row["id"]).removeprefix(f"{picture.image}/").replace("/", "")
        # Omissions count in the guard of length: their longer chosen sides make up for what edits take out of others.
        return MadePair(key, row["question"], chosen, rejected, kind=row["provenance"]["kind"], about=about)

    def _side(
        self,
        picture: JudgedPicture,
        text: str,
        sample: int,
        pool: frozenset[str],
        weights: Sequence[Any] | None,
    ) -> PairSide:
        names = {m.name for piece in split_sentences(text) for m in claimed(piece.text, self.context.vocabulary)}
        own = {verdict: frozenset(names & picture.names(verdict)) for verdict in ("present", "absent", "uncertain")}
        spans = None if weights is None else tuple(weights)
        return PairSide(text, **own, recall=recall_pool(own["present"], pool), sample=sample, weights=spans)

    def _why_none(self, picture: JudgedPicture, sources: Sequence[tuple[SourceImage, Any]]) -> Quarantined:
        if any(source.pairs for source, _ in sources):
            return Quarantined("filter", "uncertain_differs", "an edit took something uncertain along")
        trouble = next((source.trouble for source, _ in sources if source.trouble is not None), None)
        if trouble is not None:
            return trouble
        if not picture.prompts:
            return Quarantined("filter", "no_claim", "no candidate is of use")
        if not any(one.absent for group in picture.prompts.values() for one in group):
            return Quarantined("filter", "nothing_absent", "no candidate names a class that is known to be absent")
        return Quarantined("filter", "no_pair", "no edit gave two sides")
