"""Hallucination and temporal understanding in videos, by questions with short answers: VideoHallucer and TempCompass.

VideoHallucer (arXiv 2406.16338) pairs a basic question with one about something hallucinated; a pair counts only where
both are right. TempCompass (arXiv 2403.00476) asks about action, direction, speed, order and attribute change, as
yes/no, multiple choice, caption matching and captioning; its mean is over questions, not over dimensions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mmpo.eval.statistics.tally import YES_RATIO, Metric, Tally, share
from mmpo.eval.temporal import tempcompass, videohallucer
from mmpo.eval.temporal.files import TemporalBenchmark, TemporalQuestion, read
from mmpo.eval.temporal.videohallucer import first_word as first_yes_no
from mmpo.statistics import Array, ratio

__all__ = ["TemporalBenchmark", "TemporalQuestion", "first_yes_no", "is_right", "read", "tally"]

PARSERS: dict[TemporalBenchmark, tuple[str, ...]] = {
    "videohallucer": ("official", "first-word"),
    "tempcompass": ("official", "tolerant"),
}
"""The rules that read an answer: the published script's first, then ours."""


def is_right(kind: TemporalBenchmark, question: TemporalQuestion, parser: str = "official") -> bool | None:
    """True if the prediction is right; None where no rule reads it (which counts as wrong).

    VideoHallucer: `official`, the right word anywhere; `first-word`, the first word yes or no. TempCompass: the file's
    own rating where it has one; else `official`, its script's rule for the task without a language model; `tolerant`:
    equal texts in any case, yes or no at the beginning, a letter A to D alone or before a full stop, bracket or colon,
    captions matched as officially.
    """
    if kind == "videohallucer":
        said = (question.prediction or "").strip()
        if parser == "official":
            return videohallucer.official(said, question.answer)
        found = first_yes_no(said)
        return None if found is None else found == question.answer
    if question.rating is not None:
        return question.rating >= 1
    if parser == "tolerant" and (right := _tolerant(question)) is not None:
        return right
    rating = tempcompass.rate(_task(question), question.question, question.answer, question.prediction)
    return None if rating is None else bool(rating)


def _task(question: TemporalQuestion) -> tempcompass.TaskName:
    known: tempcompass.TaskName | None = next((task for task in tempcompass.TASKS if task == question.part), None)
    return known or tempcompass.task_of(Path(), question.question, question.answer)


def _tolerant(question: TemporalQuestion) -> bool | None:
    said, right = (question.prediction or "").strip(), question.answer.strip()
    if not said or _task(question) == "captioning":
        return None
    if said.lower() == right.lower():
        return True
    letter, wanted = re.match(r"([A-D])(?:[.):]|$)", said), re.match(r"([A-D])(?:[.):]|$)", right)
    return letter.group(1) == wanted.group(1) if letter and wanted else None


def by(
    questions: Iterable[TemporalQuestion], key: Callable[[TemporalQuestion], str]
) -> dict[str, list[TemporalQuestion]]:
    """The questions in groups of the same key."""
    found: dict[str, list[TemporalQuestion]] = {}
    for question in questions:
        found.setdefault(key(question), []).append(question)
    return found


def pairs(questions: Sequence[TemporalQuestion], parser: str) -> list[tuple[bool, bool]]:
    """(basic right, hallucination right) of every pair of VideoHallucer."""
    rights = [
        {question.side: bool(is_right("videohallucer", question, parser)) for question in group}
        for group in by(questions, lambda q: q.group).values()
    ]
    return [(right["basic"], right["hallucination"]) for right in rights]


# Columns: right basic, basic, right hallucination, hallucination, right pairs, pairs, said yes, true yes, questions,
# wrong yes, wrong.
WIDTH = 11
HALLUCER = (
    share("basic", 0, 1, "higher", "right answers about what is there"),
    share("hallucination", 2, 3, "higher", "right answers about what is made up"),
    share("overall", 4, 5, "higher", "pairs with both answers right", headline=1),
    share("yes_ratio", 6, 8, "neither", **YES_RATIO),
    Metric(
        "yes_difference",
        lambda c: ratio(c[..., 6] - c[..., 7], c[..., 8]),
        "neither",
        "share of yes, less the share that should be",
    ),
    share("false_positive_ratio", 9, 10, "lower", "of the wrong answers, the share that is yes"),
)
MEANS = ("basic", "hallucination", "overall")
COMPASS = (share("accuracy", 0, 1, "higher", "share of right answers", headline=1, watched=True),)


def _over_sets(metric: Metric, *, mean: bool) -> Metric:
    """A metric over counts [..., sets x WIDTH]: the unweighted mean over the sets, or over all their questions."""

    def formula(c: Array) -> Array:
        each = c.reshape(*c.shape[:-1], -1, WIDTH)
        return np.asarray(metric.formula(each).mean(-1) if mean else metric.formula(each.sum(-2)))

    def denominator(c: Array) -> Array:
        each = c.reshape(*c.shape[:-1], -1, WIDTH)
        assert metric.denominator is not None
        return np.asarray(metric.denominator(each).min(-1) if mean else metric.denominator(each.sum(-2)))

    name = metric.name if mean or metric.name not in MEANS else f"{metric.name}_over_pairs"
    return replace(metric, name=name, formula=formula, denominator=None if metric.denominator is None else denominator)


def _place(questions: Sequence[TemporalQuestion]) -> dict[str, int]:
    return {video: row for row, video in enumerate(dict.fromkeys(question.video for question in questions))}


def _hallucer_counts(questions: Sequence[TemporalQuestion], parser: str, place: dict[str, int] | None = None) -> Array:
    """Counts by video [g, WIDTH]. Overall is over pairs, which count for the video of their first question."""
    place = _place(questions) if place is None else place
    counts = np.zeros((len(place), WIDTH), dtype=np.int64)
    for group in by(questions, lambda q: q.group).values():
        rights = []
        for question in group:
            right = bool(is_right("videohallucer", question, parser))
            rights.append(right)
            row = counts[place[question.video]]
            side = 0 if question.side == "basic" else 2
            row[side : side + 2] += (right, 1)
            yes = first_yes_no(question.prediction or "") == "yes"
            row[6:11] += (yes, question.answer == "yes", 1, yes and not right, not right)
        counts[place[group[0].video], 4:6] += (all(rights), 1)
    return counts


def tally(kind: TemporalBenchmark, questions: Sequence[TemporalQuestion], parser: str = "official") -> Tally:
    """Counts by video. With several sets of VideoHallucer the shares of right answers are means over the sets, as
    published, and stand beside those over all pairs.
    """
    place = _place(questions)
    if kind == "tempcompass":
        rights = {question.id: bool(is_right(kind, question, parser)) for question in questions}
        counts = np.zeros((len(place), 2), dtype=np.int64)
        for question in questions:  # a rating of -1 counts as such, as in the published sum
            mark = rights[question.id] if question.rating is None else question.rating
            counts[place[question.video]] += (int(mark), 1)
        categories = {question.id: question.category for question in questions}
        return Tally(tuple(place), counts, COMPASS, rights, "accuracy", categories=categories)
    groups = by(questions, lambda q: q.group)
    outcomes = dict(zip(groups, map(all, pairs(questions, parser)), strict=True))
    sets = list(by(questions, lambda q: q.part).values())
    if len(sets) == 1 or not all(one[0].part for one in sets):
        return Tally(tuple(place), _hallucer_counts(questions, parser, place), HALLUCER, outcomes, "overall")
    counts = np.concatenate([_hallucer_counts(one, parser, place) for one in sets], axis=1)
    own = [_over_sets(metric, mean=True) for metric in HALLUCER if metric.name in MEANS]
    rest = [_over_sets(metric, mean=False) for metric in HALLUCER]
    names = {name: group[0].part for name, group in groups.items()}
    return Tally(tuple(place), counts, (*own, *rest), outcomes, "overall_over_pairs", categories=names)
