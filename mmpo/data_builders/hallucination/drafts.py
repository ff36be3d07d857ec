"""From one description to the two sides of its pairs: check, correct, reword, and check again.

    text ──check──▶ verdicts ──correct──▶ seeds ──reword──▶ both sides ──check──▶ those that kept their truth

A draft whose description is right, or that fails on the way, says why in `drop_reason`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from mmpo.data.annotations.records import AnnotatedImage
from mmpo.data_builders.hallucination.detect import (
    Decided,
    Detector,
    SentenceVerdict,
    Truth,
    hallucinated,
    split_sentences,
)
from mmpo.data_builders.hallucination.grammar.phrases import Naming, missed_phrases
from mmpo.data_builders.hallucination.grammar.tree import Phrase
from mmpo.data_builders.hallucination.grammar.writer import Correction, Writer, listing
from mmpo.data_builders.hallucination.judges import DescriptionJudgement, Judge, Rewriter
from mmpo.data_builders.hallucination.repair import repaired
from mmpo.errors import Quarantined
from mmpo.text.scene_claims import ClaimKind
from mmpo.text.vocabulary import ObjectVocabulary


class EditSettings(Protocol):
    """How descriptions become pairs: the part of a builder's settings that `BuildSettings` describes."""

    @property
    def builder(self) -> str: ...
    @property
    def seed(self) -> int: ...
    @property
    def correct(self) -> Sequence[ClaimKind]: ...
    @property
    def exhaustive(self) -> bool: ...
    @property
    def correction(self) -> Literal["edit", "caption", "template"]: ...
    @property
    def rewrite(self) -> bool: ...
    @property
    def add_missed(self) -> Literal["none", "balance", "all"]: ...
    @property
    def min_area(self) -> float: ...
    @property
    def omission_share(self) -> float: ...
    @property
    def variants(self) -> int: ...
    @property
    def pairs_per_image(self) -> int | None: ...
    @property
    def changed_weight(self) -> float | None: ...


@dataclass
class SideDraft:
    """One wording of one side. `drop_reason` says why it can't be used: it is no longer right, or no longer wrong."""

    text: str
    verdicts: list[SentenceVerdict] = field(default_factory=list)
    drop_reason: str = ""


@dataclass(eq=False)
class Draft:
    """A description on its way to pairs; `chosen[k]` and `rejected[k]` are wording k of both sides."""

    id: str
    image: AnnotatedImage
    size: tuple[int, int]
    truth: Truth
    text: str
    verdicts: list[SentenceVerdict] = field(default_factory=list)
    decided: Sequence[Decided] = ()
    corrected: str = ""
    chosen: list[SideDraft] = field(default_factory=list)
    rejected: list[SideDraft] = field(default_factory=list)
    removed: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    drop_reason: str = ""
    trouble: Quarantined | None = None

    def fail(self, error: Quarantined) -> None:
        """A text model gave nothing of use."""
        self.drop_reason, self.trouble = f"{error.stage}: {error.reason}", error


class Drafter:
    """Takes drafts from description to sides. Rules do all of it unless a judge or a rewriter is given."""

    def __init__(
        self, settings: EditSettings, vocabulary: ObjectVocabulary, judge: Judge | None, rewriter: Rewriter | None
    ) -> None:
        self.settings, self.vocabulary = settings, vocabulary
        self.judge, self.rewriter = judge, rewriter
        self.detector = Detector(vocabulary, settings.correct, exhaustive=settings.exhaustive)
        self.writer = Writer(vocabulary)

    def check(self, drafts: Sequence[Draft]) -> None:
        """Fill in verdicts (and a judge's correction); `drop_reason` where there is nothing to correct."""
        for draft, judged in zip(drafts, self._judged([(d.text, d.truth) for d in drafts]), strict=True):
            if isinstance(judged, Quarantined):
                draft.fail(judged)
                continue
            draft.verdicts, draft.corrected, draft.decided = judged.verdicts, judged.corrected, judged.decided
            if not knows(draft.verdicts):
                draft.drop_reason = "no_known_object"
            elif not mistaken(draft.verdicts):
                draft.drop_reason = "nothing_hallucinated"

    def word(self, drafts: Sequence[Draft], namings: dict[str, Naming]) -> None:
        """Fill in the wordings of both sides, checked again. `namings`: how the model names single objects."""
        for draft in drafts:
            self._seeds(draft, namings)
        if self.rewriter is not None:
            self._rewrite([draft for draft in drafts if not draft.drop_reason])
        worded = [draft for draft in drafts if not draft.drop_reason]
        sides = [(draft, side) for draft in worded for side in (*draft.chosen, *draft.rejected) if not side.drop_reason]
        again = self._judged([(side.text, draft.truth) for draft, side in sides])
        for (draft, side), judged in zip(sides, again, strict=True):
            if isinstance(judged, Quarantined):
                side.drop_reason = f"{judged.stage}: {judged.reason}"
                draft.trouble = judged
            else:
                side.verdicts = judged.verdicts
        for draft in worded:
            for side in draft.chosen:
                side.drop_reason = side.drop_reason or self._not_right(draft, side)
            for side in draft.rejected:
                if not side.drop_reason and not mistaken(side.verdicts):
                    side.drop_reason = "rejected_no_longer_wrong"

    def pairings(self, draft: Draft) -> tuple[list[tuple[int, int]], list[str]]:
        """The wordings (chosen, rejected) that become pairs, by number, and the reason against each of the others."""
        count = max(len(draft.chosen), len(draft.rejected))
        wanted = self.settings.pairs_per_image or self.settings.variants
        if wanted == 1 and self.settings.variants > 1:
            good = [
                [k for k, side in enumerate(sides) if not side.drop_reason] for sides in (draft.chosen, draft.rejected)
            ]
            if all(good):
                rng = random.Random(f"{self.settings.seed}/pairing/{draft.id}")
                return [(rng.choice(good[0]), rng.choice(good[1]))], []
            both = [(k, k) for k in range(count)]
        elif wanted > self.settings.variants:
            both = [(i, j) for i in range(len(draft.chosen)) for j in range(len(draft.rejected))]
        else:
            both = [(k, k) for k in range(count)]
        kept, lost = [], []
        for i, j in both:
            missing = i >= len(draft.chosen) or j >= len(draft.rejected)
            reason = "wording_missing" if missing else draft.chosen[i].drop_reason or draft.rejected[j].drop_reason
            if reason:
                lost.append(reason)
            else:
                kept.append((i, j))
        return kept, lost

    def _judged(self, items: Sequence[tuple[str, Truth]]) -> list[DescriptionJudgement | Quarantined]:
        if self.judge is not None:
            return self.judge.judge(items)
        read = [(text, truth, self.detector.decided(text, truth)) for text, truth in items]
        return [DescriptionJudgement(self.detector.verdicts(*one), "", one[2]) for one in read]

    def _seeds(self, draft: Draft, namings: dict[str, Naming]) -> None:
        """Both sides as rules word them, or as they are where a text model words them, or `rewrite` is off."""
        settings = self.settings
        variants = range(settings.variants if self.rewriter is None else 1)
        if self.judge is not None or (settings.correction != "edit" and (self.rewriter or not settings.rewrite)):
            chosen = draft.corrected if self.judge is not None else self._told(draft, namings)
            if not chosen:
                draft.drop_reason = "nothing_told"
                return
            plain = self.rewriter is not None or not settings.rewrite
            for variant in variants:
                pair = (chosen, draft.text)
                if not plain:
                    pair = tuple(self.writer.reword(text, variant, draft.id) for text in pair)  # type: ignore[assignment]
                self._add(draft, *pair)
        elif settings.correction != "edit":
            told = self._told(draft, namings)
            for variant in variants:
                both = self.writer.recast(draft.text, told, variant=variant, seed=f"{settings.seed}/{draft.id}")
                if both is None:
                    draft.drop_reason = "unread" if told else "nothing_told"
                    return
                self._add(draft, both[1], both[0])
        else:
            for variant in variants:
                correction = self.edited(draft, variant, namings)
                draft.removed, draft.added, draft.lost = correction.removed, correction.added, correction.lost
                self._add(draft, correction.corrected, correction.original if settings.rewrite else draft.text)

    def _told(self, draft: Draft, namings: dict[str, Naming]) -> str:
        """Another writer's text about the picture: its first caption, or the annotated objects in reading order."""
        if self.settings.correction == "caption":
            return next(iter(draft.image.captions), "")
        phrases = self._missed(draft, namings)
        across = self._across(draft.image)
        return listing("the image contains", sorted(phrases, key=lambda phrase: across(phrase) or 0.0))

    def _missed(self, draft: Draft, namings: dict[str, Naming]) -> list[Phrase]:
        """Phrases for all annotated objects, in the manner of the description."""
        size = (draft.image.width or draft.size[0], draft.image.height or draft.size[1])
        return missed_phrases(
            draft.image,
            self.vocabulary.name_of,
            size,
            [part.tree for part in self.writer.read(draft.text)],
            min_area=self.settings.min_area,
            namings=namings,
        )

    def edited(self, draft: Draft, variant: int, namings: dict[str, Naming]) -> Correction:
        """The description with its mistakes edited out by rules."""
        absent = {finding.name for finding in hallucinated(draft.verdicts) if finding.kind == "object"}
        missed = self._missed(draft, namings)
        add = {"none": 0, "balance": len(absent), "all": len(missed)}[self.settings.add_missed]
        return self.writer.correct(
            draft.text,
            absent.__contains__,
            missed,
            add=add,
            variant=variant,
            seed=f"{self.settings.seed}/{draft.id}",
            across=self._across(draft.image),
            repaired=repaired(draft.text, draft.truth, self.detector),
        )

    def _add(self, draft: Draft, chosen: str, rejected: str) -> None:
        draft.chosen.append(SideDraft(chosen, drop_reason="" if chosen else "nothing_left"))
        draft.rejected.append(SideDraft(rejected))

    def _rewrite(self, drafts: Sequence[Draft]) -> None:
        assert self.rewriter is not None
        sides = [side for draft in drafts for side in (draft.chosen[0], draft.rejected[0])]
        texts = [side.text for side in sides if not side.drop_reason]
        worded = iter(self.rewriter.rewrite(texts, self.settings.variants))
        for draft in drafts:
            for wordings in (draft.chosen, draft.rejected):
                if wordings[0].drop_reason:
                    continue
                found = next(worded)
                if isinstance(found, Quarantined):
                    draft.fail(found)
                else:
                    wordings[:] = [SideDraft(text) for text in found]

    def _not_right(self, draft: Draft, side: SideDraft) -> str:
        if mistaken(side.verdicts):
            return "chosen_still_wrong"
        if not knows(side.verdicts):
            return "nothing_left"
        lost = self.settings.add_missed != "none" and "object" in self.settings.correct and draft.lost
        return "object_lost" if lost and not named(side.verdicts).issuperset(draft.lost) else ""

    def _across(self, image: AnnotatedImage) -> Callable[[Phrase], float | None]:
        """A function for an object's place from left to right: the centre of the leftmost one of its class."""
        centers: dict[str, float] = {}
        for item in image.objects:
            name = self.vocabulary.name_of(item.name)
            if name is not None and item.bbox_xywh is not None:
                center = item.bbox_xywh[0] + item.bbox_xywh[2] / 2
                centers[name] = min(center, centers.get(name, center))

        def across(phrase: Phrase) -> float | None:
            return next((centers[name] for name in phrase.names if name in centers), None)

        return across


def mistaken(verdicts: Sequence[SentenceVerdict]) -> bool:
    return any(verdict.verdict == "hallucination" for verdict in verdicts)


def knows(verdicts: Sequence[SentenceVerdict]) -> bool:
    """Does the text say anything that could be checked?"""
    return any(verdict.verdict != "unchecked" or verdict.findings for verdict in verdicts)


def named(verdicts: Sequence[SentenceVerdict]) -> set[str]:
    return {finding.name for verdict in verdicts for finding in verdict.findings if finding.kind == "object"}


def whole_sentences(text: str) -> str:
    """A text cut off in the middle, without its unfinished last sentence."""
    pieces = split_sentences(text)
    while pieces and not re.search(r"[.!?][\"'”’)\]]*$", pieces[-1].text):
        pieces.pop()
    return text[: pieces[-1].start + len(pieces[-1].text)].strip() if pieces else ""


def provenance_of(verdicts: Sequence[SentenceVerdict]) -> list[dict[str, Any]]:
    return [verdict.row() for verdict in verdicts]
