"""One reviewer's way through a source: the queue, what is decided, and how a decision is checked and kept."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Literal

import numpy as np

from mmpo.data.pair import check_text
from mmpo.data.reviews import (
    MarkedSpan,
    ReviewDecision,
    ReviewerAgreement,
    ReviewLog,
    SampledPrecision,
    agreements,
    sampled_precision,
)
from mmpo.errors import UserError
from mmpo.outside import Unreadable, json_of
from mmpo.review.items import QueueRows, ReviewItem, ReviewSource

QueueKind = Literal["worst", "sample", "second"]
LONGEST_NOTE = 4_000
LONGEST_SIDE = 100_000
MOST_SPANS = 200


class DecidedElsewhere(UserError):
    """The item, or the decision about it, is another one than the page showed."""


@dataclass(frozen=True)
class ReviewProgress:
    """`done` of `total` items of the queue; precision where the queue is a random sample, and the agreement of two
    reviewers once all that they share is decided."""

    done: int
    total: int
    precision: SampledPrecision | None
    agreement: ReviewerAgreement | None


class ReviewSession:
    """The queue of one reviewer.

    `kind`: `worst` is everything, worst problems first; `sample` draws `size` items at random, for a share that holds
    for all; `second` is what others have decided, in a random order and without their verdicts or a machine's scores.
    """

    def __init__(
        self,
        source: ReviewSource,
        log: ReviewLog,
        reviewer: str,
        kind: QueueKind = "worst",
        size: int = 100,
        seed: int = 0,
    ) -> None:
        self.source, self.log, self.reviewer, self.kind = source, log, reviewer, kind
        self._writing = threading.Lock()
        self._rows = source.rows_of(log.decisions.keys())
        self.order = self._queue(size, seed)
        self._place = np.full(len(source), -1, np.int64)
        self._place[self.order] = np.arange(len(self.order))
        self._done = np.zeros(len(self.order), bool)
        for id, by in log.decisions.items():
            if reviewer in by and id in self._rows and self._place[self._rows[id]] >= 0:
                self._done[self._place[self._rows[id]]] = True
        if not len(self.order):
            raise UserError(
                f"{source.folder}: nothing to review",
                hint="--second needs decisions of another reviewer" if kind == "second" else None,
            )

    @property
    def blind(self) -> bool:
        return self.kind == "second"

    def item(self, row: int) -> ReviewItem:
        """Raises UserError for an item that can't be shown, IndexError for a number that is none."""
        if not 0 <= row < len(self.source):
            raise IndexError(f"no {self.source.noun} {row}")
        item = self.source.item(row)
        return item.blind() if self.blind else item

    def decision(self, item: ReviewItem) -> ReviewDecision | None:
        """The reviewer's own last decision about the item."""
        return self.log.decisions.get(item.id, {}).get(self.reviewer)

    def next(self, row: int | None = None) -> int | None:
        """The first undecided item behind `row` in the queue, then those before it; None where all are decided."""
        start = 0 if row is None or self._place[row] < 0 else int(self._place[row]) + 1
        for lowest, part in ((start, self._done[start:]), (0, self._done[:start])):
            if len(part) and not part.all():
                return int(self.order[lowest + int(np.argmin(part))])
        return None

    def beside(self, row: int, step: int) -> int:
        """The item `step` places further in the queue, decided or not; the last (first) one has none behind it."""
        place = int(self._place[row])
        return int(self.order[min(max(place + step, 0), len(self.order) - 1)])

    def place(self, row: int) -> int:
        """The place of an item in the queue, from 1; 0 for one that is not in it."""
        return int(self._place[row]) + 1

    def progress(self) -> ReviewProgress:
        done = int(self._done.sum())
        precision = agreement = None
        if self.kind == "sample":
            precision = sampled_precision(one for by in self.log.decisions.values() for one in by.values())
        if self.kind == "second" and done == len(self.order):
            every = agreements((one for by in self.log.decisions.values() for one in by.values()), samples=500)
            agreement = next((one for one in every if self.reviewer in (one.one, one.other)), None)
        return ReviewProgress(done, len(self.order), precision, agreement)

    def decide(self, row: int, form: Mapping[str, str]) -> ReviewDecision:
        """Check a form and keep its decision; it is on the disk when this returns. UserError for one that can't be,
        `DecidedElsewhere` where another page decided meanwhile."""
        item = self.item(row)
        decision = self._checked(item, form)
        with self._writing:
            if form.get("version") != str(self.log.version(item.id, self.reviewer)):
                raise DecidedElsewhere("decided in another tab meanwhile; press again to decide anew")
            self.log.add(decision)
            if self._place[row] >= 0:
                self._done[self._place[row]] = True
        return decision

    def _checked(self, item: ReviewItem, form: Mapping[str, str]) -> ReviewDecision:
        verdict = form.get("verdict", "")
        choice = next((one for one in self.source.choices if one.verdict == verdict), None)
        if choice is None:
            raise UserError(f"{verdict!r} is no verdict about a {self.source.noun}")
        if form.get("digest") != item.digest:
            raise DecidedElsewhere("the content has changed since this page was opened; here it is as it is now")
        note = form.get("note", "").replace("\r\n", "\n").strip()
        if len(note) > LONGEST_NOTE:
            raise UserError(f"a note has at most {LONGEST_NOTE:,} characters")
        edits = _edits(item, form) if verdict == "edit" else {}
        return ReviewDecision(
            id=item.id,
            digest=item.digest,
            verdict=choice.verdict,
            reviewer=self.reviewer,
            time=datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            spans=_spans(item, form.get("spans", "")),
            note=note,
            label=form.get("label", "").strip()[:200] or None if verdict == "label_wrong" else None,
            drawn=self.kind == "sample",
            **edits,
        )

    def _queue(self, size: int, seed: int) -> QueueRows:
        random = np.random.default_rng(seed)
        if self.kind == "worst":
            return self.source.order()
        if self.kind == "sample":
            return random.choice(len(self.source), size=min(size, len(self.source)), replace=False)
        others = [
            self._rows[id]
            for id, by in self.log.decisions.items()
            if id in self._rows and any(reviewer != self.reviewer for reviewer in by)
        ]
        return random.permutation(np.array(sorted(others), np.int64))


def _edits(item: ReviewItem, form: Mapping[str, str]) -> dict[str, str]:
    """The new text of each side that was changed."""
    if not item.editable:
        raise UserError("a side of several turns cannot be edited here")
    edits = {}
    for side, before in item.sides.items():
        after = form.get(side, before).replace("\r\n", "\n")  # forms send every line feed so
        if len(after) > LONGEST_SIDE:
            raise UserError(f"{side} has at most {LONGEST_SIDE:,} characters")
        if after != before.replace("\r\n", "\n"):
            check_text(after, side)
            edits[side] = after
    if not edits:
        raise UserError("nothing was edited: change a side, or accept")
    sides = {**item.sides, **edits}
    if sides["chosen"] == sides["rejected"]:
        raise UserError("both sides are the same now")
    return edits


def _spans(item: ReviewItem, text: str) -> tuple[MarkedSpan, ...]:
    """Marked spans, each checked against the text of its side."""
    if not text:
        return ()
    try:
        rows = json_of(text)
        spans = tuple(MarkedSpan(one["side"], one["start"], one["end"], one["text"]) for one in rows)
    except (Unreadable, TypeError, KeyError):
        raise UserError("the marked spans cannot be read") from None
    if len(spans) > MOST_SPANS:
        raise UserError(f"at most {MOST_SPANS} spans can be marked")
    for one in spans:
        whole = item.sides.get(one.side) if isinstance(one.side, str) else None
        numbers = isinstance(one.start, int) and isinstance(one.end, int) and 0 <= one.start < one.end
        if whole is None or not numbers or whole[one.start : one.end] != one.text:
            raise UserError("a marked span does not fit its text; mark it again")
    return spans
