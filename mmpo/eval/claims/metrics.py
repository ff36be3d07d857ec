"""Wrong claims in free descriptions: objects, counts, colours, places and relations, against what people marked.

A rule-based reader (`mmpo.text.scene_claims`) lists what a description claims, annotations decide what they can
(`mmpo.data.truth`), and the number is the share of decided claims that are wrong, overall and by kind. What the
reader does not understand and what no annotation decides enters no share; how much was decided stands beside it.

`a dog` claims that there is a dog. Its `a` is no count, unless texts are read as lists of everything (`exhaustive`):
it could be wrong only where the object is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mmpo.data.annotations.records import AnnotatedImage
from mmpo.data.records import write_lines
from mmpo.data.truth import Truth, corrected, decide, truth_of
from mmpo.errors import UserError
from mmpo.eval.statistics.tally import Metric, Tally, share
from mmpo.statistics import Array, ratio
from mmpo.text.scene_claims import KINDS, Claim, ClaimKind, Number, read_claims
from mmpo.text.vocabulary import ObjectVocabulary

_READ, _DECIDED, _WRONG = range(3)
"""Columns of each kind; `_TEXTS` and what follows stand behind those of all kinds."""
_TEXTS, _NAMED, _REPEATED = (3 * len(KINDS) + place for place in range(3))


def _over_kinds(counts: Array, column: int) -> Array:
    total: Array = counts[..., column:_TEXTS:3].sum(-1)
    return total


_WRONG_CLAIMS = share(
    "wrong", _WRONG, _DECIDED, "lower", "claims that are wrong, of those that the annotations decide",
    label="wrong claims", sentence="Wrong claims: {} % of those that the annotations decide",
)  # fmt: skip
_DECIDED_CLAIMS = share(
    "decided", _DECIDED, _READ, "neither", "claims that the annotations decide", label="claims decided"
)
BY_KIND = (_WRONG_CLAIMS, _DECIDED_CLAIMS)


def _all_kinds(metric: Metric, above: int, below: int) -> Metric:
    return replace(
        metric,
        formula=lambda c: ratio(_over_kinds(c, above), _over_kinds(c, below)),
        denominator=lambda c: _over_kinds(c, below),
    )


OVERALL = (
    _all_kinds(_WRONG_CLAIMS, _WRONG, _DECIDED),
    _all_kinds(_DECIDED_CLAIMS, _DECIDED, _READ),
    share("repeats", _REPEATED, _NAMED, "lower", "objects beyond what the image has", label="named again"),
    Metric(
        "claims", lambda c: ratio(_over_kinds(c, _READ), c[..., _TEXTS]), "neither", "that were read", percent=False,
        denominator=lambda c: c[..., _TEXTS], label="claims a text",
    ),
)  # fmt: skip


@dataclass(frozen=True)
class JudgedClaim:
    """A claim with the words that decide it, `text[start:end]`. `right` is None where the annotation can't tell,
    `instead` what would be true in place of a wrong one, where one word or number is. `again`: the object is named as
    a further one, though the picture has no more of them than the text had named already.
    """

    kind: ClaimKind
    name: str
    start: int
    end: int
    text: str
    right: bool | None
    instead: str | int | None = None
    again: bool = False


@dataclass(frozen=True)
class ClaimsRow:
    """One description with its claims; `named` counts the objects that it brings in (`a dog`, `two cars`)."""

    image: str
    caption: str
    claims: tuple[JudgedClaim, ...]
    named: int


@dataclass(frozen=True)
class ClaimsResult:
    """All descriptions, judged; `overall` and `by_kind` count the same images."""

    rows: tuple[ClaimsRow, ...]
    overall: Tally
    by_kind: Mapping[ClaimKind, Tally]

    @property
    def silent(self) -> int:
        """Descriptions in which no claim was read."""
        return sum(not row.claims for row in self.rows)

    def totals(self, kind: ClaimKind) -> tuple[int, int, int]:
        """(read, decided, wrong) claims of a kind."""
        read, decided, wrong = self.by_kind[kind].counts.sum(0)
        return int(read), int(decided), int(wrong)

    def texts(self, kind: ClaimKind) -> int:
        """Descriptions with a claim of the kind."""
        return int((self.by_kind[kind].counts[:, _READ] > 0).sum())


def truths(
    images: Iterable[AnnotatedImage], names: Mapping[str, Iterable[str]], vocabulary: ObjectVocabulary
) -> dict[str, Truth]:
    """The truth about each image, by its path; `names` adds objects that are there without a mark."""
    return {image.path: with_names(truth_of(image, vocabulary), names.get(image.path, ())) for image in images}


def with_names(truth: Truth, names: Iterable[str]) -> Truth:
    """`truth` with further objects that are in the picture, who knows how many and where."""
    return Truth(truth.image, truth.names.union(names), truth.objects)


def score(
    captions: Mapping[str, str], truth: Mapping[str, Truth], vocabulary: ObjectVocabulary, *, exhaustive: bool = False
) -> ClaimsResult:
    """Judge one description per image (both maps by image). `exhaustive`: the texts list all that they show, so that
    every number is exact and `a car` is one car.

    Raises UserError where there is nothing to judge, or nothing is known about an image.
    """
    if not captions:
        raise UserError("there are no descriptions to score")
    missing = next((image for image in captions if image not in truth), None)
    if missing is not None:
        raise UserError(f"image {missing} is described, but not annotated")
    rows = tuple(
        _row(image, caption, truth[image], vocabulary, exhaustive=exhaustive) for image, caption in captions.items()
    )
    counts = np.array([_counts(row) for row in rows], dtype=np.int64)
    images = tuple(captions)
    by_kind = {kind: Tally(images, counts[:, 3 * place : 3 * place + 3], BY_KIND) for place, kind in enumerate(KINDS)}
    return ClaimsResult(rows, Tally(images, counts, OVERALL), by_kind)


def write_rows(path: str | Path, result: ClaimsResult) -> None:
    """Write one JSON line per description: `image_id`, `caption`, and its claims with the words that decide them."""
    rows = (
        {"image_id": row.image, "caption": row.caption, "claims": [vars(claim) for claim in row.claims]}
        for row in result.rows
    )
    write_lines(path, rows)


def _row(image: str, caption: str, truth: Truth, vocabulary: ObjectVocabulary, *, exhaustive: bool) -> ClaimsRow:
    claims = [
        claim for claim in read_claims(caption, vocabulary, exhaustive=exhaustive) if not _follows_from_object(claim)
    ]
    again = _named_again(claims, truth)
    judged = tuple(_judged(claim, caption, truth, again=id(claim) in again) for claim in claims)
    return ClaimsRow(image, caption, judged, named=sum(_brings_in(claim) for claim in claims))


def _follows_from_object(claim: Claim) -> bool:
    """True if a count says no more than that the object is there: `a dog`, at least one."""
    return claim.kind == "count" and claim.value == Number(1, None)


def _judged(claim: Claim, text: str, truth: Truth, *, again: bool) -> JudgedClaim:
    right = decide(claim, truth)
    instead = corrected(claim, truth) if right is False else None
    return JudgedClaim(
        claim.kind, claim.name, claim.start, claim.end, text[claim.start : claim.end], right, instead, again
    )


def _brings_in(claim: Claim) -> bool:
    """True if an object is named as one not spoken of before: `a car`, `two cars`, not `the car`."""
    counted = claim.about.counted
    return claim.kind == "object" and counted is not None and counted.new


def _named_again(claims: Iterable[Claim], truth: Truth) -> set[int]:
    """The object claims (by `id`) that bring in more of a class, named before, than the picture has. Where the number
    there is not known, none.
    """
    said: Counter[str] = Counter()
    found = set()
    for claim in claims:
        counted = claim.about.counted
        if not _brings_in(claim) or counted is None:
            continue
        before = said[claim.name]
        said[claim.name] += counted.number
        there = truth.marked(claim.name)
        if before and there is not None and said[claim.name] > len(there):
            found.add(id(claim))
    return found


def _counts(row: ClaimsRow) -> list[int]:
    counts: list[int] = []
    for kind in KINDS:
        own: list[Any] = [claim for claim in row.claims if claim.kind == kind]
        decided = [claim for claim in own if claim.right is not None]
        counts += [len(own), len(decided), sum(not claim.right for claim in decided)]
    return [*counts, 1, row.named, sum(claim.again for claim in row.claims)]
