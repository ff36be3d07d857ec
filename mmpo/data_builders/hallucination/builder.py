"""From annotated images to preference pairs, one unit of work at a time (HA-DPO, Zhao et al. 2023, arXiv:2311.16839).

    images ──describe──▶ the model's own descriptions ──check, correct, reword both──▶ description pairs
           ──ask──▶ the model's own answers ──sort, balance──▶ question pairs

What a unit gives depends on its images, the settings, the model and the text models; nothing else.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmpo.data.annotations.records import AnnotatedImage
from mmpo.data_builders.hallucination.description_pairs import Describer, HallucinationCounts, SourceImage
from mmpo.data_builders.hallucination.generations import GenerationCache
from mmpo.data_builders.hallucination.judges import Judge, QuestionMaker, Rewriter
from mmpo.data_builders.hallucination.question_pairs import Interviewer
from mmpo.data_builders.hallucination.questions import CoOccurrence
from mmpo.data_builders.hallucination.settings import BuildSettings
from mmpo.errors import Quarantined
from mmpo.files.images import load_image, read_image
from mmpo.text.vocabulary import ObjectVocabulary


@dataclass(frozen=True)
class Outcome:
    """The result of one image: rows of pairs (text only), or the reason why there are none."""

    id: str
    path: str
    pairs: list[dict[str, Any]]
    stage: str = ""
    reason: str = ""
    detail: str = ""


@dataclass(frozen=True)
class TextModels:
    """The text models of a build; rules stand in for those that are None."""

    judge: Judge | None = None
    rewriter: Rewriter | None = None
    questions: QuestionMaker | None = None


class HallucinationBuilder:
    """Builds the pairs of one model. `common` holds the co-occurrence statistics of the whole annotation file."""

    def __init__(
        self,
        settings: BuildSettings,
        listener: GenerationCache,
        vocabulary: ObjectVocabulary,
        common: CoOccurrence,
        version: str,
        text_models: TextModels | None = None,
    ) -> None:
        models = text_models or TextModels()
        self.settings = settings
        self.listener = listener
        self.describer = Describer(settings, vocabulary, version, models.judge, models.rewriter)
        self.interviewer = (
            Interviewer(settings.qa, settings.seed, listener, vocabulary, common, models.questions)
            if settings.qa is not None
            else None
        )

    def build(
        self, unit: int, images: Sequence[AnnotatedImage], done: Callable[[], None] = lambda: None
    ) -> tuple[list[Outcome], HallucinationCounts]:
        """One unit: an outcome for each image, in order, and the account of what was tried. `done` is called once for
        each image on the way.
        """
        tally = HallucinationCounts()
        opened = [self._open(image) for image in images]
        sources = [source for source in opened if isinstance(source, SourceImage)]
        for _ in range(len(images) - len(sources)):
            done()
        asked = [(source.picture, source.prompt) for source in sources]
        for source, texts in zip(sources, self.listener.descriptions(unit, asked, done), strict=True):
            source.descriptions = texts
        described = self.describer.pairs(sources, tally)
        if self.interviewer is not None:
            self._question_pairs(unit, sources, described, tally)
        return [self._outcome(image, item) for image, item in zip(images, opened, strict=True)], tally

    def _open(self, image: AnnotatedImage) -> SourceImage | Quarantined:
        truth = self.describer.drafter.detector.truth(image)
        if not truth.names:
            known = image.objects or image.regions
            reason = "unknown_objects" if known else "no_objects"
            return Quarantined("annotation", reason, "nothing annotated is in the vocabulary" if known else "")
        try:
            picture = read_image(image.path, root=image.root)
            size = load_image(picture).size
        except Quarantined as error:
            return error
        prompt = random.Random(f"{self.settings.seed}/prompt/{image.id}").choice(self.settings.prompts)
        return SourceImage(image, picture, size, truth, prompt)

    def _outcome(self, image: AnnotatedImage, found: SourceImage | Quarantined) -> Outcome:
        if isinstance(found, Quarantined):
            return Outcome(image.id, image.path, [], found.stage, found.reason, found.detail)
        if found.pairs:
            return Outcome(image.id, image.path, found.pairs)
        if found.trouble is not None:
            return self._outcome(image, found.trouble)
        return Outcome(image.id, image.path, [], "filter", "no_pair", "nothing hallucinated, and no question kept")

    # ---- questions

    def _question_pairs(
        self,
        unit: int,
        sources: Sequence[SourceImage],
        described: Mapping[str, tuple[str, str]],
        tally: HallucinationCounts,
    ) -> None:
        assert self.interviewer is not None
        found = self.interviewer.ask(unit, [(source.picture, source.truth) for source in sources], described)
        tally.questions.update(found.questions)
        tally.value_questions.update(found.value_questions)
        tally.totals.update(found.totals)
        for source, pairs in zip(sources, found.pairs, strict=True):
            for pair in pairs:
                suffix = pair.id.rpartition("/")[2]
                source.pairs.append(
                    self.describer.row(source, suffix, pair.question, pair.chosen, pair.rejected, **pair.about)
                )
