"""Decisions made use of: a new folder of pairs, or corrected labels and what they do to the numbers.

Nothing that was reviewed is changed. A decision about content that is not there any more is refused, for nobody looked
at what is there now.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mmpo.data.pair import PreferencePair, text_message
from mmpo.data.reader import count_pairs, open_shard, read_pairs, shard_paths
from mmpo.data.records import write_lines
from mmpo.data.reviews import (
    ReviewDecision,
    SettledRuling,
    agreements,
    last_decisions,
    read_reviews,
    sampled_precision,
    settled,
)
from mmpo.data.shards import PairWriter
from mmpo.errors import Quarantined, UserError
from mmpo.eval.graded import GradedQuestion
from mmpo.files.atomic import file_digest, replacing_folder, write_json
from mmpo.progress import task
from mmpo.review.answers import question_digest, questions_to_review
from mmpo.review.claims import ClaimSource
from mmpo.review.pairs import pair_digest, score_pairs
from mmpo.select.write import bring_videos
from mmpo.statistics import Interval, wilson

CLAIM_CORRECTIONS = "claim_corrections.jsonl"
CORRECTIONS = "label_corrections.jsonl"
OPPOSITE = {"yes": "no", "no": "yes"}


@dataclass(frozen=True)
class AppliedReviews:
    """`counts` of verdicts, what is told about the reviewing (`notes`), and what the folder holds now."""

    counts: Mapping[str, int]
    notes: tuple[str, ...]
    made: int


def apply_to_pairs(
    folder: Path, files: Sequence[Path], out: Path, *, reviewed_only: bool = False, keep_unsure: bool = False
) -> AppliedReviews:
    """Write the pairs of a folder as the decisions want them. What is dropped stands in rejects.jsonl; so does, unless
    `keep_unsure`, what reviewers are unsure of or disagree about, and with `reviewed_only` what nobody looked at.

    UserError where a decision is about another content than the folder has, or about a pair that is not there.
    """
    _refuse_full(out)
    decisions, rulings = _rulings(files)
    notes = review_notes(decisions)
    counts: Counter[str] = Counter()
    stale: list[str] = []
    unseen = set(rulings)
    recipe = {
        "reviewed": str(folder), "reviews": {str(path): file_digest(path) for path in files},
        "reviewed_only": reviewed_only, "keep_unsure": keep_unsure,
    }  # fmt: skip
    names = _score_names(folder)
    with replacing_folder(out) as beside:
        writer = PairWriter(beside, recipe=recipe, scores=names, images=folder)
        with closing(writer.rejects), task("applying reviews", count_pairs(folder)) as running:
            for pair in read_pairs(folder):
                running.advance()
                ruling = rulings.get(pair.id)
                unseen.discard(pair.id)
                if ruling is not None and pair_digest(pair) != ruling.decision.digest:
                    stale.append(pair.id)
                    continue
                counts[ruling.verdict if ruling else "not reviewed"] += 1
                try:
                    kept = _applied(pair, ruling, reviewed_only, keep_unsure)
                    bring_videos(kept, folder, beside)
                    writer.add(kept)
                except Quarantined as error:
                    writer.reject(pair.id, error)
            _refuse_stale(folder, "pairs", [*stale, *sorted(unseen)])
            writer.close(title="Reviewed preference pairs", notes="\n".join(notes))
    return AppliedReviews(counts, notes, writer.counts.pairs)


def apply_to_labels(folder: Path, files: Sequence[Path], out: Path) -> AppliedReviews:
    """Write `label_corrections.jsonl` (a row for each label that is wrong or ambiguous) and `label_metrics.json`: the
    share of right answers on both label sets. UserError for a decision about another label than there is now."""
    _refuse_full(out)
    decisions, rulings = _rulings(files)
    questions = {one.id: one for one in questions_to_review(folder)}
    stale = [
        id for id, ruling in rulings.items()
        if id not in questions or question_digest(questions[id]) != ruling.decision.digest
    ]  # fmt: skip
    _refuse_stale(folder, "questions", stale)
    corrected = {id: _label(questions[id], ruling) for id, ruling in rulings.items()}
    rows = [
        _correction(questions[id], rulings[id], label)
        for id, label in corrected.items()
        if label != questions[id].expected
    ]
    metrics = list(label_metrics(list(questions.values()), corrected))
    notes = review_notes(decisions)
    with replacing_folder(out) as beside:
        write_lines(beside / CORRECTIONS, rows)
        write_json(
            beside / "label_metrics.json",
            {
                "evaluation": str(folder),
                "reviews": {str(path): file_digest(path) for path in files},
                "notes": notes,
                "rows": [asdict(one) for one in metrics],
            },
        )
    told = tuple(str(one) for one in metrics)
    return AppliedReviews(Counter(one.verdict for one in rulings.values()), (*notes, *told), len(rows))


def apply_to_claims(folder: Path, files: Sequence[Path], out: Path) -> AppliedReviews:
    """Write `claim_corrections.jsonl`, a row for each verdict of the evidence that people call wrong. `notes` tell how
    often each verdict holds, by all that was reviewed. UserError for a decision about another verdict than there is."""
    _refuse_full(out)
    decisions, rulings = _rulings(files)
    source = ClaimSource(folder)
    rows = source.rows_of(rulings)
    stale = [id for id in rulings if id not in rows]
    held: dict[str, Counter[str]] = {}
    wrong = []
    for id, row in rows.items():
        claim, ruling = source.claim(row), rulings[id]
        if claim.digest != ruling.decision.digest:
            stale.append(id)
            continue
        held.setdefault(claim.verdict, Counter())[ruling.verdict] += 1
        if ruling.verdict == "label_wrong":
            wrong.append(
                {
                    "image": claim.image, "name": claim.name, "verdict": claim.verdict,
                    "reviewers": list(ruling.reviewers), "note": ruling.decision.note,
                }
            )  # fmt: skip
    _refuse_stale(folder, "claims", stale)
    told = [
        f"{verdict}: {_share(counts['accept'], decided, wilson(counts['accept'], decided))}"
        for verdict, counts in sorted(held.items())
        if (decided := counts["accept"] + counts["label_wrong"])
    ]
    with replacing_folder(out) as beside:
        write_lines(beside / CLAIM_CORRECTIONS, wrong)
    counts = Counter[str](one.verdict for one in rulings.values())
    return AppliedReviews(counts, (*review_notes(decisions), *told), len(wrong))


def review_notes(decisions: Sequence[ReviewDecision]) -> tuple[str, ...]:
    """What a card says about the reviewing: a builder's precision by sample, and how far reviewers agree."""
    precision = sampled_precision(decisions)
    notes = [f"Human review of a random sample: {precision}."] if precision.interval else []
    return (*notes, *(f"Two reviewers: {one}." for one in agreements(decisions)))


@dataclass(frozen=True)
class LabelMetric:
    """Right answers of a benchmark's split in one state: on the labels as published, and as corrected, where questions
    that were dropped as ambiguous do not count."""

    benchmark: str
    split: str
    state: str
    right: int
    questions: int
    interval: Interval
    corrected_right: int
    corrected_questions: int
    corrected_interval: Interval | None

    def __str__(self) -> str:
        place = f"{self.benchmark} {self.split}".strip()
        told = f"{place}, {self.state}: {_share(self.right, self.questions, self.interval)} as published, "
        if self.corrected_interval is None:
            return told + "no question left as corrected"
        return told + f"{_share(self.corrected_right, self.corrected_questions, self.corrected_interval)} as corrected"


def label_metrics(questions: Sequence[GradedQuestion], corrected: Mapping[str, str | None]) -> Iterator[LabelMetric]:
    """One for each benchmark, split and state. `corrected`: the label of each reviewed question by id, None for an
    ambiguous one; the others keep theirs."""
    table: dict[tuple[str, str, str], list[tuple[bool, bool | None]]] = {}
    for one in questions:
        label = corrected.get(one.id, one.expected)
        for state, said in one.said.items():
            if said.get("right") is None:
                continue
            after = None if label is None else bool(said["right"]) if label == one.expected else said["parsed"] == label
            table.setdefault((one.benchmark, one.split, state), []).append((bool(said["right"]), after))
    for (benchmark, split, state), rows in table.items():
        kept = [after for _, after in rows if after is not None]
        right = sum(before for before, _ in rows)
        yield LabelMetric(
            benchmark, split, state, right, len(rows), wilson(right, len(rows)), sum(kept), len(kept),
            wilson(sum(kept), len(kept)) if kept else None,
        )  # fmt: skip


def _refuse_full(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is not empty", hint="name a new folder")


def _refuse_stale(folder: Path, noun: str, stale: Sequence[str]) -> None:
    if stale:
        raise UserError(
            f"{len(stale)} decisions are about {noun} that have changed or are gone since (the first: {stale[0]})",
            hint=f"review these again: mmpo review {folder}",
        )


def _rulings(files: Sequence[Path]) -> tuple[list[ReviewDecision], dict[str, SettledRuling]]:
    decisions = read_reviews(*files)
    if not decisions:
        raise UserError(f"{', '.join(map(str, files))}: no decisions", hint="mmpo review makes them")
    rulings = {}
    for id, by in last_decisions(decisions).items():
        if len({one.digest for one in by.values()}) > 1:
            raise UserError(f"{id}: two reviewers saw different content", hint="review it again")
        rulings[id] = settled(by)
    return decisions, rulings


def _applied(
    pair: PreferencePair, ruling: SettledRuling | None, reviewed_only: bool, keep_unsure: bool
) -> PreferencePair:
    """The pair as it goes on. Raises Quarantined for one that does not."""
    if ruling is None:
        if reviewed_only:
            raise Quarantined("review", "not_reviewed")
        return pair
    decision, verdict = ruling.decision, ruling.verdict
    if verdict == "drop" or (verdict == "unsure" and not keep_unsure):
        raise Quarantined("review", "dropped" if verdict == "drop" else "unsure", decision.note)
    if verdict == "swap":
        pair = _swapped(pair)
    elif verdict == "edit":
        pair = _edited(pair, decision)
    noted = {
        "verdict": verdict, "reviewers": list(ruling.reviewers), "time": decision.time, "note": decision.note,
        "digest": decision.digest, "spans": [asdict(span) for span in decision.spans],
    }  # fmt: skip
    return replace(pair, provenance={**pair.provenance, "review": {k: v for k, v in noted.items() if v}})


def _swapped(pair: PreferencePair) -> PreferencePair:
    """Both sides in each other's place, with all that belongs to a side. Scores of the pair as a whole go: a margin was
    one of the other order."""
    scores = pair.scores or {}
    both = {}
    for one, other in score_pairs(list(scores)):
        both[one], both[other] = scores[other], scores[one]
    images = pair.images if pair.rejected_images is None else pair.rejected_images
    return replace(
        pair,
        chosen=pair.rejected,
        rejected=pair.chosen,
        images=images,
        rejected_images=None if pair.rejected_images is None else pair.images,
        chosen_weights=pair.rejected_weights,
        rejected_weights=pair.chosen_weights,
        chosen_parts=pair.rejected_parts,
        rejected_parts=pair.chosen_parts,
        image_weights=None,
        scores=both or None,
    )


def _edited(pair: PreferencePair, decision: ReviewDecision) -> PreferencePair:
    """The pair with the new texts. Weights of an edited side go, and all parts and scores: they were of other words."""
    changed: dict[str, Any] = {"scores": None}
    if decision.chosen is not None:
        changed |= {"chosen": [text_message("assistant", decision.chosen)]}
        changed |= {"chosen_weights": None, "image_weights": None}
    if decision.rejected is not None:
        changed |= {"rejected": [text_message("assistant", decision.rejected)], "rejected_weights": None}
    return replace(pair, chosen_parts=None, rejected_parts=None, **changed)


def _score_names(folder: Path) -> list[str]:
    with open_shard(shard_paths(folder, "train")[0]) as file:
        schema = file.schema_arrow
    return [one.name for one in schema.field("scores").type] if "scores" in schema.names else []


def _label(question: GradedQuestion, ruling: SettledRuling) -> str | None:
    """The label after review; None for an ambiguous question. UserError where nobody said what the right one is."""
    if ruling.verdict == "drop":
        return None
    if ruling.verdict != "label_wrong":
        return question.expected
    label = ruling.decision.label or OPPOSITE.get(question.expected.strip().lower())
    if label is None:
        raise UserError(f"{question.id}: the label is wrong, but no right answer was given", hint="review it again")
    return label


def _correction(question: GradedQuestion, ruling: SettledRuling, label: str | None) -> dict[str, Any]:
    return {
        "benchmark": question.benchmark, "split": question.split, "image": question.image, "prompt": question.prompt,
        "published": question.expected, "label": label, "reviewers": list(ruling.reviewers),
        "note": ruling.decision.note,
    }  # fmt: skip


def _share(right: int, total: int, interval: Interval) -> str:
    return f"{right} of {total} right ({100 * interval.low:.0f}-{100 * interval.high:.0f} %)"
