"""Yes/no questions about the classes that the evidence agrees on, put to the model itself: its own answers against the
opposite, as the builder `hallucination_pairs` makes them of annotations; as many whose answer is yes as no.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from mmpo.data_builders.candidates.records import JudgedPicture
from mmpo.data_builders.from_candidates.maker import Made, MadePair, MakerSettings, PairMaker, PairSide, pair_maker
from mmpo.data_builders.from_candidates.truths import truth_of_picture
from mmpo.data_builders.hallucination.settings import QuestionSettings
from mmpo.errors import Quarantined
from mmpo.files.fingerprints import folder_fingerprint, model_folder

if TYPE_CHECKING:
    from mmpo.data.truth import Truth
    from mmpo.data_builders.hallucination.question_pairs import Interviewer, QuestionPair


class YesNoSettings(MakerSettings):
    """Yes/no questions about what the evidence agrees on, answered by the model itself; as many yes as no."""

    needs_classes: ClassVar[bool] = True

    maker: Literal["questions"] = Field("questions", description="How pairs are made.")
    questions_per_image: int = Field(
        default=6,
        ge=2,
        description="Most questions about a picture: half about present classes, half about absent ones.",
    )
    keep_right_share: float = Field(
        default=0.25,
        ge=0,
        le=1,
        description="Share of the questions answered rightly that become pairs too, besides those that balance yes and "
        "no.",
    )
    templates: list[str] = Field(
        default=["Is there {article} {object} in the image?"],
        min_length=1,
        description="How questions are asked; `{object}` stands for the class and `{article}` for a or an.",
    )
    max_new_tokens: int = Field(default=32, ge=1, description="Longest answer, in tokens; longer ones are not used.")
    dtype: Literal["float32", "bfloat16", "auto"] = Field(
        "float32", description="Number format of the model; its answers are kept by it."
    )


@pair_maker("questions", settings=YesNoSettings)
class YesNoQuestions(PairMaker[YesNoSettings]):
    """Pairs of answers. Yes and no are balanced within a unit of work."""

    asks = True

    @cached_property
    def interviewer(self) -> Interviewer:
        from mmpo.data_builders.hallucination.generations import KeptAnswers
        from mmpo.data_builders.hallucination.question_pairs import Interviewer
        from mmpo.data_builders.hallucination.questions import CoOccurrence

        settings = self.settings
        asked = QuestionSettings(
            questions_per_image=settings.questions_per_image,
            keep_right_share=settings.keep_right_share,
            templates=settings.templates,
            max_new_tokens=settings.max_new_tokens,
            counts_per_image=0,
            colors_per_image=0,
            places_per_image=0,
        )
        model = folder_fingerprint(model_folder(self.context.model))
        listener = KeptAnswers(settings.dtype, self.context.engine, model, self.context.folder)
        return Interviewer(asked, self.context.seed, listener, self.context.vocabulary, CoOccurrence(()))

    def make(self, number: int, pictures: Sequence[JudgedPicture], advance: Callable[[], None]) -> list[Made]:
        found: list[Made] = []
        images: list[tuple[bytes, Truth]] = []
        asked: list[int] = []
        for place, picture in enumerate(pictures):
            found.append(Quarantined("filter", "no_question", "no answer was wrong, or none could be balanced"))
            truth = truth_of_picture(picture)
            if not truth.names or not truth.absent:
                side = "absent" if truth.names else "present"
                found[place] = Quarantined("filter", f"nothing_{side}", f"no class is known to be {side}")
            else:
                try:
                    images.append((self.context.picture(picture), truth))
                    asked.append(place)
                except Quarantined as error:
                    found[place] = error
            advance()
        interview = self.interviewer.ask(number, images, {}) if images else None
        for place, pairs in zip(asked, interview.pairs if interview else [], strict=True):
            if pairs:
                found[place] = [_made(pair, number) for number, pair in enumerate(pairs)]
        return found


def _made(pair: QuestionPair, number: int) -> MadePair:
    """A pair of answers: naming a present class is rewarded, naming an absent one punished."""
    name = frozenset({str(pair.about["object"])})
    if pair.about["present"]:
        chosen, rejected = PairSide(pair.chosen, present=name), PairSide(pair.rejected)
    else:
        chosen, rejected = PairSide(pair.chosen), PairSide(pair.rejected, absent=name)
    return MadePair(f"q{number}", pair.question, chosen, rejected, kind="question", free_length=True, about=pair.about)
