"""From annotated images to preference pairs, one unit of work at a time (HA-DPO, Zhao et al. 2023, arXiv:2311.16839).

    images ──describe──▶ the model's own descriptions ──detect──▶ verdicts ──correct, reword both──▶ description pairs
           ──ask──▶ the model's own answers ──sort, balance──▶ question pairs

What a unit gives depends on its images, the settings and the model; nothing else.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mmpo.data.annotations import AnnotatedImage
from mmpo.data.images import load_image, read_image
from mmpo.data.vocabulary import ObjectVocabulary
from mmpo.data_builders.detect import Detector, SentenceVerdict, Truth, hallucinated, split_sentences
from mmpo.data_builders.phrases import Naming, missed_phrases, usual_namings
from mmpo.data_builders.questions import Asked, CoOccurrence, Judged, choose_questions, judge, select
from mmpo.data_builders.settings import BuildSettings
from mmpo.data_builders.tree import Phrase
from mmpo.data_builders.writer import Correction, Writer
from mmpo.errors import Quarantined
from mmpo.models.answer import AnswerEngine, Question


@dataclass
class Tally:
    """Where everything went. Each table has `in`, and as much in its other entries together."""

    descriptions: Counter[str] = field(default_factory=Counter)
    questions: Counter[str] = field(default_factory=Counter)
    totals: Counter[str] = field(default_factory=Counter)

    def count_words(self, row: dict[str, Any]) -> None:
        self.totals["chosen_words"] += len(row["chosen"].split())
        self.totals["rejected_words"] += len(row["rejected"].split())


@dataclass
class Source:
    """An image that can be used, and what has come of it."""

    image: AnnotatedImage
    picture: bytes
    size: tuple[int, int]
    truth: Truth
    prompt: str
    descriptions: list[tuple[str, bool]] = field(default_factory=list)
    pairs: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Outcome:
    """What one image gave: rows of pairs (text only), or why there is none."""

    id: str
    path: str
    pairs: list[dict[str, Any]]
    stage: str = ""
    reason: str = ""
    detail: str = ""


class HallucinationBuilder:
    """Builds the pairs of one model. `common` holds the co-occurrence statistics of the whole annotation file."""

    def __init__(
        self,
        settings: BuildSettings,
        engine: AnswerEngine,
        vocabulary: ObjectVocabulary,
        common: CoOccurrence,
        version: str,
    ) -> None:
        self.settings = settings
        self.engine = engine
        self.common = common
        self.detector = Detector(vocabulary)
        self.writer = Writer(vocabulary)
        self.vocabulary = vocabulary
        self.version = version
        self._namings: dict[str, Naming] = {}

    def build(self, images: Sequence[AnnotatedImage]) -> tuple[list[Outcome], Tally]:
        """One unit: an outcome for each image, in order, and the account of what was tried."""
        tally = Tally()
        opened = [self._open(image) for image in images]
        sources = [source for source in opened if isinstance(source, Source)]
        self._describe(sources)
        said = {text for source in sources for text, _ in source.descriptions}
        self._namings = usual_namings(part.tree for text in sorted(said) for part in self.writer.read(text))
        for source in sources:
            self._description_pairs(source, tally)
        if self.settings.qa is not None:
            self._question_pairs(sources, tally)
        return [self._outcome(image, item) for image, item in zip(images, opened, strict=True)], tally

    def _open(self, image: AnnotatedImage) -> Source | Quarantined:
        truth = self.detector.truth(image)
        if not truth.names:
            reason = "unknown_objects" if image.objects else "no_objects"
            return Quarantined(
                "annotation", reason, "none of the annotated names is in the vocabulary" if image.objects else ""
            )
        try:
            picture = read_image(image.path, root=image.root)
            size = load_image(picture).size
        except Quarantined as error:
            return error
        prompt = random.Random(f"{self.settings.seed}/prompt/{image.id}").choice(self.settings.prompts)
        return Source(image, picture, size, truth, prompt)

    def _outcome(self, image: AnnotatedImage, found: Source | Quarantined) -> Outcome:
        if isinstance(found, Quarantined):
            return Outcome(image.id, image.path, [], found.stage, found.reason, found.detail)
        if not found.pairs:
            return Outcome(image.id, image.path, [], "filter", "no_pair", "nothing hallucinated, and no question kept")
        return Outcome(image.id, image.path, found.pairs)

    # ---- descriptions

    def _describe(self, sources: Sequence[Source]) -> None:
        """Greedy and sampled descriptions; each with whether it was cut off by the limit."""
        limit, count = self.settings.max_new_tokens, self.settings.samples_per_image
        asked = [Question(source.image.id, source.picture, source.prompt) for source in sources]
        for source, answer in zip(sources, self.engine.answer(asked, max_new_tokens=limit), strict=True):
            source.descriptions.append((answer.text, answer.truncated))
        if not count:
            return
        sampled = self.engine.sample_many(
            [(source.picture, source.prompt) for source in sources],
            count,
            temperature=self.settings.temperature,
            top_p=self.settings.top_p,
            seed=self.settings.seed,
            max_new_tokens=limit,
        )
        for source, answers in zip(sources, sampled, strict=True):
            source.descriptions += [(answer.text, answer.truncated) for answer in answers]

    def _description_pairs(self, source: Source, tally: Tally) -> None:
        seen: set[str] = set()
        for sample, (text, truncated) in enumerate(source.descriptions):
            tally.descriptions["in"] += 1
            text = whole_sentences(text) if truncated else text.strip()
            verdicts = self.detector.check(text, source.truth)
            complete = text  # what a pair about an omission starts from: a description without mistakes
            if not text:
                tally.descriptions["unfinished" if truncated else "empty"] += 1
            elif text in seen:
                tally.descriptions["duplicate"] += 1
            elif not any(verdict.findings for verdict in verdicts):
                tally.descriptions["no_known_object"] += 1
            elif not hallucinated(verdicts):
                tally.descriptions["nothing_hallucinated"] += 1
            else:
                rows = [
                    self._rewritten(source, text, sample, variant, verdicts)
                    for variant in range(self.settings.variants)
                ]
                good = [row for row in rows if isinstance(row, dict)]
                complete = good[0]["chosen"] if good else ""
                distinct = {(row["chosen"], row["rejected"]): row for row in reversed(good)}
                source.pairs += [row for row in good if distinct[row["chosen"], row["rejected"]] is row]
                tally.totals["description_pairs"] += len(distinct)
                tally.totals["wordings_dropped"] += len(rows) - len(distinct)
                tally.descriptions["paired" if good else next(row for row in rows if isinstance(row, str))] += 1
                for row in distinct.values():
                    tally.count_words(row)
            tally.totals["hallucinating"] += bool(hallucinated(verdicts))
            if complete and text not in seen and (omission := self._omission(source, complete, sample)):
                source.pairs.append(omission)
                tally.totals["omission_pairs"] += 1
                tally.count_words(omission)
            seen.add(text)

    def _omission(self, source: Source, text: str, sample: int) -> dict[str, Any] | None:
        """A pair that prefers a right description to the same one without a true object, or None where it isn't to be.

        Pairs about hallucinations alone teach to say less: the shorter side is always the better one. These are their
        counterweight, so that what is learnt is to look.
        """
        rng = random.Random(f"{self.settings.seed}/omission/{source.image.id}/{sample}")
        said = sorted(named(self.detector.check(text, source.truth)))
        if rng.random() >= self.settings.omission_share or len(said) < 2:
            return None
        omitted = rng.choice(said)
        shorter = self.writer.correct(text, lambda name: name == omitted)
        if not shorter.corrected or shorter.lost or shorter.original == shorter.corrected:
            return None
        if named(self.detector.check(shorter.corrected, source.truth)) != set(said) - {omitted}:
            return None
        return self._row(
            source,
            f"o{sample}",
            source.prompt,
            shorter.original,
            shorter.corrected,
            kind="omission",
            sample=sample,
            omitted=omitted,
        )

    def _rewritten(
        self, source: Source, text: str, sample: int, variant: int, verdicts: Sequence[SentenceVerdict]
    ) -> dict[str, Any] | str:
        """The row of a pair, or the reason why there is none: the detector must agree with both sides after
        rewriting.
        """
        correction = self._correct(source, text, variant, f"{self.settings.seed}/{source.image.id}/{sample}")
        if not correction.corrected:
            return "nothing_left"
        chosen, rejected = (
            self.detector.check(side, source.truth) for side in (correction.corrected, correction.original)
        )
        if hallucinated(chosen):
            return "chosen_still_wrong"
        if not any(verdict.findings for verdict in chosen):
            return "nothing_left"
        if not hallucinated(rejected):
            return "rejected_no_longer_wrong"
        if self.settings.add_missed != "none" and correction.lost and not named(chosen).issuperset(correction.lost):
            return "object_lost"
        return self._row(
            source,
            f"d{sample}v{variant}",
            source.prompt,
            correction.corrected,
            correction.original,
            kind="description",
            sample=sample,
            variant=variant,
            removed=list(correction.removed),
            added=list(correction.added),
            verdicts=[verdict.row() for verdict in verdicts],
        )

    def _correct(self, source: Source, text: str, variant: int, seed: str) -> Correction:
        wrong = {finding.name for finding in hallucinated(self.detector.check(text, source.truth))}
        size = (source.image.width or source.size[0], source.image.height or source.size[1])
        missed = missed_phrases(
            source.image,
            self.vocabulary.name_of,
            size,
            [part.tree for part in self.writer.read(text)],
            min_area=self.settings.min_area,
            namings=self._namings,
        )
        add = {"none": 0, "balance": len(wrong), "all": len(missed)}[self.settings.add_missed]
        return self.writer.correct(
            text, wrong.__contains__, missed, add=add, variant=variant, seed=seed, across=self._across(source.image)
        )

    def _across(self, image: AnnotatedImage) -> Any:
        """Where an object is from left to right: the centre of the leftmost one of its class."""
        centers: dict[str, float] = {}
        for item in image.objects:
            name = self.vocabulary.name_of(item.name)
            if name is not None and item.bbox_xywh is not None:
                center = item.bbox_xywh[0] + item.bbox_xywh[2] / 2
                centers[name] = min(center, centers.get(name, center))

        def across(phrase: Phrase) -> float | None:
            return next((centers[name] for name in phrase.names if name in centers), None)

        return across

    # ---- questions

    def _question_pairs(self, sources: Sequence[Source], tally: Tally) -> None:
        qa = self.settings.qa
        assert qa is not None
        by_id: dict[str, Source] = {}
        groups: list[tuple[bytes, list[Question]]] = []
        asked: list[Asked] = []
        for source in sources:
            chosen = choose_questions(
                source.image.id,
                source.truth.names,
                self.common,
                count=qa.questions_per_image,
                templates=qa.templates,
                seed=self.settings.seed,
            )
            by_id |= {question.id: source for question in chosen}
            asked += chosen
            groups.append((source.picture, [Question(question.id, None, question.text) for question in chosen]))
        answers = list(self.engine.answer(groups, max_new_tokens=qa.max_new_tokens))
        whole = [(q, a.text) for q, a in zip(asked, answers, strict=True) if not a.truncated]
        judged = judge(whole)
        kept, dropped = select(judged, keep_right_share=qa.keep_right_share, seed=self.settings.seed)
        tally.questions["in"] += len(asked)
        tally.questions["paired"] += len(kept)
        tally.questions["unfinished"] += len(asked) - len(whole)
        tally.questions["neither_yes_nor_no"] += len(whole) - len(judged)
        tally.questions.update(dropped)
        tally.totals["yes"] += sum(item.asked.present for item in kept)
        tally.totals["answered_wrongly"] += sum(not item.right for item in judged)
        for item in kept:
            source = by_id[item.asked.id]
            source.pairs.append(self._question_row(source, item))

    def _question_row(self, source: Source, item: Judged) -> dict[str, Any]:
        return self._row(
            source,
            item.asked.id.rpartition("/")[2],
            item.asked.text,
            item.chosen,
            item.rejected,
            kind="question",
            object=item.asked.name,
            present=item.asked.present,
            answered_rightly=item.right,
        )

    def _row(
        self, source: Source, suffix: str, question: str, chosen: str, rejected: str, **about: Any
    ) -> dict[str, Any]:
        """A pair without its image; `about` goes to its provenance."""
        provenance = {
            "builder": self.settings.builder,
            "version": self.version,
            "source": source.image.id,
            "seed": self.settings.seed,
        }
        return {
            "id": f"{source.image.id}/{suffix}",
            "question": question,
            "chosen": chosen,
            "rejected": rejected,
            "provenance": {**provenance, **about},
        }


def named(verdicts: Sequence[SentenceVerdict]) -> set[str]:
    return {finding.name for verdict in verdicts for finding in verdict.findings}


def whole_sentences(text: str) -> str:
    """A text cut off in the middle, without its unfinished last sentence."""
    pieces = split_sentences(text)
    while pieces and not re.search(r"[.!?][\"'”’)\]]*$", pieces[-1].text):
        pieces.pop()
    return text[: pieces[-1].start + len(pieces[-1].text)].strip() if pieces else ""


def digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()[:16]
