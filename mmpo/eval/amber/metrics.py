"""AMBER (Wang et al. 2023, arXiv 2311.07397): the metrics of both halves.

Generative: nouns of a description against the objects that are in the image (`truth`) and those that people expect
there but that are absent (`hallu`). Discriminative: yes/no questions about existence, attributes and relations; the
positive class is "no". Numbers follow the published script; where it departs from the paper or from plain arithmetic
both are given, and the reason stands at the function.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mmpo.errors import UserError
from mmpo.eval.amber.files import AmberLabel, AmberObjects, Annotations
from mmpo.eval.amber.words import Similarity
from mmpo.eval.statistics.tally import Metric, Tally, aligned, by_image, share
from mmpo.eval.yes_no import parse
from mmpo.statistics import Array, ratio

Order = Literal["published", "names-first"]
CogDenominator = Literal["targets", "response"]

ATTRIBUTES = ("state", "number", "action")
SELECTIONS = {
    "a": ("generative", "existence", *ATTRIBUTES, "relation"),
    "g": ("generative",),
    "d": ("existence", *ATTRIBUTES, "relation"),
    "de": ("existence",),
    "da": ATTRIBUTES,
    "dr": ("relation",),
}
"""The published script's flags, and the dimensions that each scores."""

SEED = 0.001
"""Every denominator of the published script starts here, so that nothing divides by zero."""


# ------------------------------------------------------------------------------------------------------- generative


@dataclass(frozen=True)
class DescribedRow:
    """One scored description: its nouns in order, those that the image lacks, and the words of `truth` covered and of
    `hallu` named.
    """

    id: int
    nouns: tuple[str, ...]
    hallucinated: tuple[str, ...]
    covered: tuple[str, ...]
    cognitive: tuple[str, ...]
    counts: tuple[int, ...]


_NOUNS, _WRONG, _COVERED, _TRUTH, _COG, _TARGETS, _COG_NOUNS, _IMAGES, _WRONG_IMAGES, SILENT = range(10)


def describe(
    item: AmberObjects,
    nouns: Sequence[str],
    annotations: Annotations,
    similarity: Similarity,
    order: Order = "published",
) -> DescribedRow:
    """Score the nouns of one description (section 3 of the paper, as the published script computes it).

    The script searches the words related to a truth word before the truth words themselves, so a truth word that is
    related to an earlier one is never covered by its own name (335 of 5,599 words); `order="names-first"` searches
    names first. Safe words are skipped before they can cover anything, in both.
    """
    truth = _search_list(item.truth, annotations.related, order)
    targets = _search_list(item.hallu, annotations.related, order)
    covered: set[int] = set()
    cognitive: set[int] = set()
    wrong: list[str] = []
    cognitive_nouns = 0
    for noun in nouns:
        if noun in annotations.safe:
            continue
        if noun in truth:
            covered.add(truth[noun])
            continue
        named = {targets[noun]} if noun in targets else set()
        if (close := similarity.first(noun, targets)) is not None:
            named.add(targets[close])
        cognitive |= named
        cognitive_nouns += bool(named)
        if (close := similarity.first(noun, truth)) is not None:
            covered.add(truth[close])
        else:
            wrong.append(noun)
    counts = (
        len(nouns), len(wrong), len(covered), len(item.truth), len(cognitive), len(item.hallu), cognitive_nouns, 1,
        int(bool(wrong)), int(not nouns),
    )  # fmt: skip
    return DescribedRow(
        id=item.id,
        nouns=tuple(nouns),
        hallucinated=tuple(wrong),
        covered=tuple(item.truth[index] for index in sorted(covered)),
        cognitive=tuple(item.hallu[index] for index in sorted(cognitive)),
        counts=counts,
    )


def _search_list(words: Sequence[str], related: Mapping[str, Sequence[str]], order: Order) -> dict[str, int]:
    """Every word that stands for one of `words`, with the index of the one that it stands for, in search order."""
    names = [(word, index) for index, word in enumerate(words)]
    others = [(other, index) for index, word in enumerate(words) for other in related[word]]
    found: dict[str, int] = {}
    for word, index in others + names if order == "published" else names + others:
        found.setdefault(word, index)
    return found


def generative_metrics(cog_denominator: CogDenominator = "targets") -> tuple[Metric, ...]:
    """CHAIR, Cover, Hal and Cog over summed counts. The script's Cog is a share of the expected-but-absent words; the
    paper's a share of the response's nouns (`cog_denominator="response"`).
    """
    cog = (_COG, _TARGETS) if cog_denominator == "targets" else (_COG_NOUNS, _NOUNS)
    return (
        share("CHAIR", _WRONG, _NOUNS, "lower", "nouns that are not in the image", headline=1, watched=True),
        share("Cover", _COVERED, _TRUTH, "higher", "what is in the image that is named"),
        share("Hal", _WRONG_IMAGES, _IMAGES, "lower", "descriptions with such a noun", independent=True, watched=True),
        share("Cog", *cog, "lower", "what people expect there that is absent, and is named"),
    )


def published_generative(
    counts: Array | Sequence[Sequence[int]], cog_denominator: CogDenominator = "targets"
) -> dict[str, float]:
    """The script's four numbers of `counts` [n, 10]: percent with one decimal, denominators from 0.001 (which shows in
    tiny inputs only: one wrong noun of one is 99.9).
    """
    total = np.array(counts, dtype=np.float64).reshape(-1, 10).sum(0)
    cog = (_COG, _TARGETS) if cog_denominator == "targets" else (_COG_NOUNS, _NOUNS)
    free = (total[_IMAGES] - total[_WRONG_IMAGES]) / (total[_IMAGES] + SEED)
    return {
        "CHAIR": _percent(total[_WRONG], total[_NOUNS]),
        "Cover": _percent(total[_COVERED], total[_TRUTH]),
        "Hal": round(float(100 - 100 * free), 1) if total[_IMAGES] else 0.0,
        "Cog": _percent(total[cog[0]], total[cog[1]]),
    }


def generative_tally(
    rows: Sequence[DescribedRow], images: Mapping[int, str], cog_denominator: CogDenominator = "targets"
) -> Tally:
    """Counts by image, for intervals and tests."""
    names, counts = by_image([images[row.id] for row in rows], np.array([row.counts for row in rows], dtype=np.int64))
    outcomes = {row.id: not row.hallucinated for row in rows}
    return Tally(names, counts, generative_metrics(cog_denominator), outcomes, paired_metric="Hal")


# --------------------------------------------------------------------------------------------------- discriminative

PARSERS = ("official", "first-word", "vlmevalkit")
"""The rules that read Yes or No: `official` takes exactly `Yes` or `No`, as the published script expects its input;
`first-word` the first word in any case; `vlmevalkit` that kit's rule."""

_FIRST_WORD = re.compile(r"\W*(yes|no)\b", re.IGNORECASE)


def read_answer(response: str, parser: str = "official") -> Literal["yes", "no"] | None:
    """The answer that a response gives; None for neither. Raises UserError for an unknown parser."""
    if parser == "official":
        return {"Yes": "yes", "No": "no"}.get(response)  # type: ignore[return-value]
    if parser == "first-word":
        found = _FIRST_WORD.match(response)
        return None if found is None else ("yes" if found[1].lower() == "yes" else "no")
    if parser == "vlmevalkit":
        return parse(response, parser).label
    raise UserError(f"no answer parser is called {parser!r}", hint=f"choose one of {', '.join(PARSERS)}")


_ASKED, _RIGHT, _NO, _RIGHT_NO, _TRUTH_NO = range(5)


def _f1(counts: Array) -> Array:
    return ratio(2 * counts[..., _RIGHT_NO], counts[..., _NO] + counts[..., _TRUTH_NO])


DISCRIMINATIVE = (
    share("accuracy", _RIGHT, _ASKED, "higher", "share of right answers", watched=True),
    share("precision", _RIGHT_NO, _NO, "higher", "of the answers no, the share that is right"),
    share("recall", _RIGHT_NO, _TRUTH_NO, "higher", "of what is not there, the share that is denied"),
    Metric(
        "F1",
        _f1,
        "higher",
        "harmonic mean of precision and recall",
        denominator=lambda c: c[..., _NO] + c[..., _TRUTH_NO],
        headline=2,
        watched=True,
    ),
)


def answer_counts(item: AmberLabel, answer: Literal["yes", "no"] | None) -> tuple[int, ...]:
    """Counts of one answer; None (neither Yes nor No) is wrong and not a "no"."""
    no = answer == "no"
    return 1, int(answer == item.label), int(no), int(no and item.label == "no"), int(item.label == "no")


def groups(items: Iterable[AmberLabel]) -> dict[str, list[AmberLabel]]:
    """The questions of each printed line: all, existence, attribute with its three parts, relation; those with any."""
    lines: dict[str, list[AmberLabel]] = {
        name: [] for name in ("all", "existence", "attribute", *ATTRIBUTES, "relation")
    }
    for item in items:
        lines["all"].append(item)
        lines[item.dimension].append(item)
        if item.dimension in ATTRIBUTES:
            lines["attribute"].append(item)
    return {name: members for name, members in lines.items() if members}


def published_discriminative(counts: Array, line: str) -> dict[str, float]:
    """The script's four numbers of summed `counts` [5]: percent with one decimal, F1 from the rounded precision and
    recall with a small term in the denominator (0.001 for existence, 0.0001 elsewhere).
    """
    precision, recall = _percent(counts[_RIGHT_NO], counts[_NO]), _percent(counts[_RIGHT_NO], counts[_TRUTH_NO])
    p, r = precision / 100, recall / 100
    f1 = 2 * p * r / (p + r + (0.001 if line == "existence" else 0.0001))
    return {
        "accuracy": _percent(counts[_RIGHT], counts[_ASKED]),
        "precision": precision,
        "recall": recall,
        "F1": round(100 * f1, 1),
    }


def discriminative_tally(
    items: Sequence[AmberLabel], answers: Mapping[int, Literal["yes", "no"] | None], images: Mapping[int, str]
) -> Tally:
    """Counts by image, for intervals and tests."""
    rows = np.array([answer_counts(item, answers[item.id]) for item in items], dtype=np.int64)
    names, counts = by_image([images[item.id] for item in items], rows)
    outcomes = {item.id: answers[item.id] == item.label for item in items}
    return Tally(names, counts, DISCRIMINATIVE, outcomes, paired_metric="accuracy")


def combined_tally(generative: Tally, discriminative: Tally) -> Tally:
    """AMBER Score by image: the counts of both halves side by side."""
    names = tuple(dict.fromkeys((*generative.images, *discriminative.images)))
    counts = np.concatenate([aligned(generative, names), aligned(discriminative, names)], axis=1)
    split = generative.counts.shape[1]

    def formula(c: Array) -> Array:
        left, right = c[..., :split], c[..., split:]
        return (1 - ratio(left[..., _WRONG], left[..., _NOUNS]) + _f1(right)) / 2

    return Tally(
        names, counts, (Metric("AMBER_score", formula, "higher", "mean of 1 - CHAIR and F1", headline=3, watched=True),)
    )


def amber_score(chair: float, f1: float) -> float:
    """(100 - CHAIR + F1) / 2, both in percent (the paper's headline; the script doesn't print it)."""
    return (100 - chair + f1) / 2


def _percent(above: float, below: float) -> float:
    return round(float(100 * above / (below + SEED)), 1)
