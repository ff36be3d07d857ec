"""Description pairs of a unit of work: descriptions that are wrong against the same put right, and omissions."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import eq
from typing import Any

from mmpo.data.annotations.records import AnnotatedImage
from mmpo.data.pair import placeholder_in
from mmpo.data_builders.hallucination.detect import Decided, Detector, Truth
from mmpo.data_builders.hallucination.drafts import (
    Draft,
    Drafter,
    EditSettings,
    SideDraft,
    mistaken,
    named,
    provenance_of,
    whole_sentences,
)
from mmpo.data_builders.hallucination.grammar.phrases import usual_namings
from mmpo.data_builders.hallucination.judges import Judge, Rewriter
from mmpo.data_builders.hallucination.segments import weighted_spans
from mmpo.errors import Quarantined
from mmpo.text.scene_claims import KINDS
from mmpo.text.vocabulary import ObjectVocabulary


@dataclass
class HallucinationCounts:
    """Counts of what came in and where it went. In each table the other entries together add up to `in`."""

    descriptions: Counter[str] = field(default_factory=Counter)
    wordings: Counter[str] = field(default_factory=Counter)
    claims: Counter[str] = field(default_factory=Counter)
    questions: Counter[str] = field(default_factory=Counter)
    value_questions: Counter[str] = field(default_factory=Counter)
    totals: Counter[str] = field(default_factory=Counter)

    def count_claims(self, decided: Iterable[Decided]) -> None:
        for claim, right in decided:
            self.claims["in"] += 1
            self.claims[f"{claim.kind}: {'undecided' if right is None else 'right' if right else 'wrong'}"] += 1

    def count_words(self, row: dict[str, Any]) -> None:
        self.totals["chosen_words"] += len(row["chosen"].split())
        self.totals["rejected_words"] += len(row["rejected"].split())


@dataclass
class SourceImage:
    """An image that can be used, and its results so far."""

    image: AnnotatedImage
    picture: bytes
    size: tuple[int, int]
    truth: Truth
    prompt: str
    descriptions: list[tuple[str, bool]] = field(default_factory=list)
    pairs: list[dict[str, Any]] = field(default_factory=list)
    trouble: Quarantined | None = None


class Describer:
    """Makes the description pairs of images whose truth and descriptions are known. `version` goes to provenance."""

    def __init__(
        self,
        settings: EditSettings,
        vocabulary: ObjectVocabulary,
        version: str,
        judge: Judge | None = None,
        rewriter: Rewriter | None = None,
    ) -> None:
        self.settings, self.version = settings, version
        self.drafter = Drafter(settings, vocabulary, judge, rewriter)
        self.objects = Detector(vocabulary)

    def pairs(self, sources: Sequence[SourceImage], tally: HallucinationCounts) -> dict[str, tuple[str, str]]:
        """Adds the pairs; returns both sides of each image's first description pair."""
        drafts = [draft for source in sources for draft in self._drafts(source, tally)]
        owners = {source.image.id: source for source in sources}
        fresh = [draft for draft in drafts if not draft.drop_reason]
        self.drafter.check(fresh)
        for draft in fresh:
            tally.count_claims(draft.decided)
        said = sorted({text for source in sources for text, _ in source.descriptions})
        namings = usual_namings(part.tree for text in said for part in self.drafter.writer.read(text))
        wrong = [draft for draft in fresh if not draft.drop_reason]
        self.drafter.word(wrong, namings)
        first: dict[str, tuple[str, str]] = {}
        for draft in drafts:
            source = owners[draft.image.id]
            rows = self._rows(source, draft, tally) if draft in wrong else []
            tally.totals["hallucinating"] += mistaken(draft.verdicts)
            tally.descriptions["paired" if rows else draft.drop_reason] += 1
            source.pairs += rows
            source.trouble = source.trouble or draft.trouble
            if rows:
                first.setdefault(draft.image.id, (rows[0]["chosen"], rows[0]["rejected"]))
            complete = rows[0]["chosen"] if rows else draft.text if draft.drop_reason == "nothing_hallucinated" else ""
            for omission in self._omissions(source, complete, _number(draft)) if complete else ():
                source.pairs.append(omission)
                tally.totals["omission_pairs"] += 1
                tally.count_words(omission)
        return first

    def _drafts(self, source: SourceImage, tally: HallucinationCounts) -> list[Draft]:
        """The descriptions of an image; empty ones and repetitions are out at once."""
        drafts: list[Draft] = []
        seen: set[str] = set()
        for sample, (text, truncated) in enumerate(source.descriptions):
            text = whole_sentences(text) if truncated else text.strip()
            draft = Draft(f"{source.image.id}/{sample}", source.image, source.size, source.truth, text)
            if not text:
                draft.drop_reason = "unfinished" if truncated else "empty"
            elif placeholder_in(text):
                draft.drop_reason = "image_tag"
            elif text in seen:
                draft.drop_reason = "duplicate"
            seen.add(text)
            drafts.append(draft)
        tally.descriptions["in"] += len(drafts)
        return drafts

    def _rows(self, source: SourceImage, draft: Draft, tally: HallucinationCounts) -> list[dict[str, Any]]:
        """The rows of a draft's pairs, each text once; where there are none, `drop_reason` says why."""
        if draft.drop_reason:
            return []
        kept, lost = self.drafter.pairings(draft)
        rows: dict[tuple[str, str], dict[str, Any]] = {}
        for i, j in kept:
            sides = draft.chosen[i], draft.rejected[j]
            texts = sides[0].text, sides[1].text
            if texts[0] == texts[1]:
                lost.append("sides_alike")
            elif texts not in rows:
                rows[texts] = self._description_row(source, draft, i, j, sides)
        tally.totals["description_pairs"] += len(rows)
        tally.wordings["in"] += len(draft.chosen) + len(draft.rejected)
        tally.wordings.update(side.drop_reason or "kept" for side in (*draft.chosen, *draft.rejected))
        for row in rows.values():
            tally.count_words(row)
            wrong = {span["kind"] for verdict in row["provenance"]["verdicts"] for span in verdict["spans"]}
            tally.totals.update(f"wrong_{kind}" for kind in KINDS if kind in wrong)
        if not rows:
            draft.drop_reason = lost[0] if lost else "wording_missing"
        return list(rows.values())

    def _description_row(
        self, source: SourceImage, draft: Draft, i: int, j: int, sides: tuple[SideDraft, SideDraft]
    ) -> dict[str, Any]:
        both = f"v{i}" if i == j else f"v{i}x{j}"
        row = self.row(
            source,
            f"d{_number(draft)}{both}",
            source.prompt,
            sides[0].text,
            sides[1].text,
            kind="description",
            sample=_number(draft),
            variant=i,
            removed=list(draft.removed),
            added=list(draft.added),
            verdicts=provenance_of(draft.verdicts),
        )
        if i != j:
            row["provenance"]["rejected_variant"] = j
        if self.settings.changed_weight is not None:
            chosen, rejected = ((side.text, side.verdicts) for side in sides)
            weights = weighted_spans(chosen, rejected, self.settings.changed_weight)
            row["chosen_weights"], row["rejected_weights"] = weights
        return row

    def _omissions(self, source: SourceImage, text: str, sample: int) -> Iterator[dict[str, Any]]:
        """Pairs that prefer a right description to the same one without a true object, another object each.

        Pairs about hallucinations alone teach to say less: the shorter side is always the better one. These are their
        counterweight, so that what is learnt is to look.
        """
        rng = random.Random(f"{self.settings.seed}/omission/{source.image.id}/{sample}")
        said = sorted(named(self.objects.check(text, source.truth)))
        wanted, rest = divmod(self.settings.omission_share, 1)
        count = int(wanted) + (rng.random() < rest)
        if len(said) < 2:
            return
        for number, omitted in enumerate(rng.sample(said, min(count, len(said)))):
            shorter = self.drafter.writer.correct(text, partial(eq, omitted))
            if not shorter.corrected or shorter.lost or shorter.original == shorter.corrected:
                continue
            if named(self.objects.check(shorter.corrected, source.truth)) != set(said) - {omitted}:
                continue
            yield self.row(
                source,
                f"o{sample}" + (f"-{number}" if number else ""),
                source.prompt,
                shorter.original,
                shorter.corrected,
                kind="omission",
                sample=sample,
                omitted=omitted,
            )

    def row(
        self, source: SourceImage, suffix: str, question: str, chosen: str, rejected: str, **about: Any
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


def _number(draft: Draft) -> int:
    """The number of the draft's description among those of its image."""
    return int(draft.id.rpartition("/")[2])
