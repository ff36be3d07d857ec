"""AMBER (Wang et al. 2023, arXiv 2311.07397): the published files and the metrics of both halves.

Generative: nouns of a description against the objects that are in the image (`truth`) and those that people expect
there but that are absent (`hallu`). Discriminative: yes/no questions about existence, attributes and relations; the
positive class is "no". Numbers follow the published script; where it departs from the paper or from plain arithmetic
both are given, and the reason stands at the function.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mmpo.data.records import read_records, text_of
from mmpo.errors import UserError
from mmpo.eval.amber.words import Similarity
from mmpo.eval.statistics.statistics import Array, ratio
from mmpo.eval.statistics.tally import Metric, Tally, aligned, by_image
from mmpo.eval.yes_no import parse
from mmpo.outside import read_json, read_text

Order = Literal["published", "names-first"]
CogDenominator = Literal["targets", "response"]

DIMENSIONS = {
    "discriminative-hallucination": "existence",
    "discriminative-attribute-state": "state",
    "discriminative-attribute-number": "number",
    "discriminative-attribute-action": "action",
    "discriminative-relation": "relation",
    "relation": "relation",
}
"""The `type` of a yes/no question -> what it asks about."""
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


@dataclass(frozen=True)
class Described:
    """What people see in an image (`truth`) and what they would expect there but don't see (`hallu`)."""

    id: int
    truth: tuple[str, ...]
    hallu: tuple[str, ...]


@dataclass(frozen=True)
class Asked:
    """The right answer to a yes/no question, and what it asks about."""

    id: int
    dimension: str
    label: Literal["yes", "no"]


@dataclass(frozen=True)
class Annotations:
    """The annotation file and the two word lists. `related` maps every word of the benchmark to words that mean it
    too; `safe` words are never counted as hallucinated.
    """

    items: Mapping[int, Described | Asked]
    related: Mapping[str, tuple[str, ...]]
    safe: frozenset[str]

    @property
    def words(self) -> frozenset[str]:
        """Every word that a description is searched for."""
        return frozenset(self.related).union(*self.related.values())


@dataclass(frozen=True)
class Query:
    """One question of a query file."""

    id: int
    image: str
    text: str
    where: str


# ---------------------------------------------------------------------------------------------------------- reading


def read_annotations(
    path: str | Path, *, related: str | Path | None = None, safe: str | Path | None = None
) -> Annotations:
    """Read `annotations.json`, or the folder that holds it; `relation.json` and `safe_words.txt` stand beside it unless
    named.

    Items are found by their `id` (the published script goes by position). Raises UserError naming file and record.
    """
    path = Path(path)
    path = path / "annotations.json" if path.is_dir() else path
    items: dict[int, Described | Asked] = {}
    for where, record in read_records(path):
        item = _item(record, where)
        if item.id in items:
            raise UserError(f"{where}: id {item.id} is used twice")
        items[item.id] = item
    words, safe_file = _beside(path, "relation.json", related), _beside(path, "safe_words.txt", safe)
    table = read_json(words, unique=True)
    if not isinstance(table, dict) or not all(_is_words(value) for value in table.values()):
        raise UserError(f"{words}: expected an object that maps words to lists of words")
    unrelated = next(
        (word for item in items.values() if isinstance(item, Described) for word in (*item.truth, *item.hallu)
         if word not in table), None,
    )  # fmt: skip
    if unrelated is not None:
        raise UserError(
            f"{words} has no entry for {unrelated!r}, which {path} names", hint="add it, with an empty list"
        )
    safe_words = read_text(safe_file).split()
    return Annotations(items, {word: tuple(others) for word, others in table.items()}, frozenset(safe_words))


def _beside(annotations: Path, name: str, given: str | Path | None) -> Path:
    path = Path(given) if given else annotations.with_name(name)
    if not path.exists():
        raise UserError(
            f"{path} does not exist",
            hint=f"AMBER's data folder has it beside annotations.json; elsewhere, set {Path(name).stem}",
        )
    return path


def read_responses(path: str | Path, annotations: Annotations) -> dict[int, str]:
    """Read `{"id", "response"}` records. Raises UserError naming the record of an id that is used twice or unknown."""
    responses: dict[int, str] = {}
    seen: dict[int, str] = {}
    for where, record in read_records(path):
        number = _id(record, where)
        if number in seen:
            raise UserError(f"{where}: id {number} is answered at {seen[number]} already")
        if number not in annotations.items:
            raise UserError(f"{where}: id {number} is in no annotation")
        responses[number], seen[number] = text_of(record, ("response",), where), where
    if not responses:
        raise UserError(f"{path} holds no responses")
    return responses


def read_queries(path: str | Path) -> list[Query]:
    """Read a query file `{"id", "image", "query"}`. Raises UserError naming the record of a mistake."""
    queries: list[Query] = []
    seen: dict[int, str] = {}
    for where, record in read_records(path):
        number = _id(record, where)
        if number in seen:
            raise UserError(f"{where}: id {number} is used at {seen[number]} already")
        seen[number] = where
        queries.append(Query(number, text_of(record, ("image",), where), text_of(record, ("query",), where), where))
    return queries


def _item(record: dict[str, Any], where: str) -> Described | Asked:
    number, kind = _id(record, where), text_of(record, ("type",), where)
    if kind == "generative":
        for key in ("truth", "hallu"):
            if not _is_words(record.get(key)):
                raise UserError(f"{where}: `{key}` must be a list of words, found {record.get(key)!r:.60}")
        return Described(number, tuple(record["truth"]), tuple(record["hallu"]))
    if kind not in DIMENSIONS:
        raise UserError(f"{where}: type {kind!r} is none of generative, {', '.join(DIMENSIONS)}")
    label = text_of(record, ("truth",), where).strip().lower()
    if label not in ("yes", "no"):
        raise UserError(f"{where}: `truth` {record['truth']!r} is neither yes nor no")
    return Asked(number, DIMENSIONS[kind], "yes" if label == "yes" else "no")


def _id(record: Mapping[str, Any], where: str) -> int:
    number = record.get("id")
    if isinstance(number, bool) or not isinstance(number, int):
        raise UserError(f"{where}: `id` must be a whole number, found {number!r}")
    return number


def _is_words(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(word, str) for word in value)


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


_NOUNS, _WRONG, _COVERED, _TRUTH, _COG, _TARGETS, _COG_NOUNS, _IMAGES, _WRONG_IMAGES = range(9)


def describe(
    item: Described, nouns: Sequence[str], annotations: Annotations, similarity: Similarity, order: Order = "published"
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
        int(bool(wrong)),
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


def _share(numerator: int, denominator: int) -> tuple[Any, Any]:
    return lambda c: ratio(c[..., numerator], c[..., denominator]), lambda c: c[..., denominator]


def generative_metrics(cog_denominator: CogDenominator = "targets") -> tuple[Metric, ...]:
    """CHAIR, Cover, Hal and Cog over summed counts. The script's Cog is a share of the expected-but-absent words; the
    paper's a share of the response's nouns (`cog_denominator="response"`).
    """
    cog = (_COG, _TARGETS) if cog_denominator == "targets" else (_COG_NOUNS, _NOUNS)
    parts = {"CHAIR": (_WRONG, _NOUNS), "Cover": (_COVERED, _TRUTH), "Hal": (_WRONG_IMAGES, _IMAGES), "Cog": cog}
    metrics = []
    for name, (above, below) in parts.items():
        formula, denominator = _share(above, below)
        metrics.append(
            Metric(
                name,
                formula,
                "higher" if name == "Cover" else "lower",
                independent=(above, below) if name == "Hal" else None,
                denominator=denominator,
            )
        )
    return tuple(metrics)


def published_generative(rows: Iterable[DescribedRow], cog_denominator: CogDenominator = "targets") -> dict[str, float]:
    """The script's four numbers: percent with one decimal, denominators from 0.001 (which shows in tiny inputs only:
    one wrong noun of one is 99.9).
    """
    total = np.array([row.counts for row in rows], dtype=np.float64).reshape(-1, 9).sum(0)
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
"""How Yes or No is read: `official` takes exactly `Yes` or `No`, as the published script expects its input;
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

_accuracy, _asked = _share(_RIGHT, _ASKED)
_precision, _said_no = _share(_RIGHT_NO, _NO)
_recall, _is_no = _share(_RIGHT_NO, _TRUTH_NO)


def _f1(counts: Array) -> Array:
    return ratio(2 * counts[..., _RIGHT_NO], counts[..., _NO] + counts[..., _TRUTH_NO])


DISCRIMINATIVE = (
    Metric("accuracy", _accuracy, "higher", denominator=_asked),
    Metric("precision", _precision, "higher", denominator=_said_no),
    Metric("recall", _recall, "higher", denominator=_is_no),
    Metric("F1", _f1, "higher", denominator=lambda c: c[..., _NO] + c[..., _TRUTH_NO]),
)


def answer_counts(item: Asked, answer: Literal["yes", "no"] | None) -> tuple[int, ...]:
    """Counts of one answer; None (neither Yes nor No) is wrong and not a "no"."""
    no = answer == "no"
    return 1, int(answer == item.label), int(no), int(no and item.label == "no"), int(item.label == "no")


def groups(items: Iterable[Asked]) -> dict[str, list[Asked]]:
    """The questions of each printed line: all, existence, attribute with its three parts, relation; those with any."""
    lines: dict[str, list[Asked]] = {name: [] for name in ("all", "existence", "attribute", *ATTRIBUTES, "relation")}
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
    items: Sequence[Asked], answers: Mapping[int, Literal["yes", "no"] | None], images: Mapping[int, str]
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

    return Tally(names, counts, (Metric("AMBER_score", formula, "higher"),))


def amber_score(chair: float, f1: float) -> float:
    """(100 - CHAIR + F1) / 2, both in percent (the paper's headline; the script doesn't print it)."""
    return (100 - chair + f1) / 2


def _percent(above: float, below: float) -> float:
    return round(float(100 * above / (below + SEED)), 1)
