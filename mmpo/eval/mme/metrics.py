"""MME (Fu et al. 2023, arXiv 2306.13394): pairs of yes/no questions about an image, in 14 subtasks; scoring.

Each image has a question that is answered by yes and one answered by no. acc is the share of right answers, acc+ the
share of images with both right; a subtask scores 100 acc + 100 acc+ (at most 200), and perception (10 subtasks),
cognition (4) and the hallucination subset (4 of perception) are sums of scores. The files are read in
`mmpo.eval.mme.files`; pairs from any annotated image set are made in `mmpo.eval.mme.build`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from mmpo.errors import UserError
from mmpo.eval.statistics.tally import YES_RATIO, Metric, Tally, aligned, by_image, ranking
from mmpo.eval.yes_no import YesNoVerdict, parse
from mmpo.statistics import Array, ratio

IMAGES: dict[str, int] = {
    "existence": 30, "count": 30, "position": 30, "color": 30, "posters": 147, "celebrity": 170, "scene": 200,
    "landmark": 200, "artwork": 200, "OCR": 20, "commonsense_reasoning": 70, "numerical_calculation": 20,
    "text_translation": 20, "code_reasoning": 20,
}  # fmt: skip
"""The subtasks and how many images each has in the published benchmark."""

COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
PERCEPTION = tuple(name for name in IMAGES if name not in COGNITION)
HALLUCINATION = ("existence", "count", "position", "color")
GROUPS: dict[str, tuple[str, ...]] = {
    "perception": PERCEPTION,
    "cognition": COGNITION,
    "hallucination": HALLUCINATION,
    "total": (*PERCEPTION, *COGNITION),
}
"""Sums of scores: at most 2000, 800, 800 and 2800. The published script prints the first two."""

INSTRUCTION = "Please answer yes or no."
"""The end of every published question."""

MmeLabel = Literal["yes", "no"]


@dataclass(frozen=True)
class MmeQuestion:
    """One question; `image` is its file name, `where` the file and line it came from."""

    subtask: str
    image: str
    text: str
    label: MmeLabel
    where: str = field(default="", compare=False)

    @property
    def key(self) -> tuple[str, str, str]:
        """The identity of the question in every packaging of the benchmark: subtask, image without ending, words."""
        return self.subtask, stem(self.image), bare(self.text)


def stem(image: str) -> str:
    """The image's name without folders and ending; packagings differ in both."""
    return re.sub(r"\.\w+$", "", image.replace("\\", "/").rsplit("/", 1)[-1])


def bare(text: str) -> str:
    """The question without the published instruction and with single spaces (seven questions have two before it)."""
    return " ".join(" ".join(text.split()).removesuffix(INSTRUCTION).split())


# --- reading an answer -------------------------------------------------------------------------------------------


def _official(text: str) -> YesNoVerdict:
    """Lower case: exactly yes or no, else the first four characters hold "yes", or hold "no"; otherwise neither."""
    start = text.lower()[:4]
    if "yes" in start:
        return YesNoVerdict("yes", True)
    return YesNoVerdict("no", True) if "no" in start else YesNoVerdict(None, False)


def _lmms_eval(text: str) -> YesNoVerdict:
    """Lower case, stripped, full stops deleted; y and n alone count too; else as the official rule."""
    answer = text.lower().strip().replace(".", "")
    return _official({"y": "yes", "n": "no"}.get(answer, answer))


PARSERS: dict[str, Callable[[str], YesNoVerdict]] = {
    "official": _official,
    "lmms-eval": _lmms_eval,
    "vlmevalkit": lambda text: parse(text, "vlmevalkit"),
}
"""Sources: MME's eval_tool calculation.py, lmms-eval tasks/mme, VLMEvalKit yorn.py."""


# --- scoring -----------------------------------------------------------------------------------------------------

_CORRECT, _ALL, _BOTH, _PAIRS, _YES = range(5)


def _acc(c: Array) -> Array:
    return ratio(c[..., _CORRECT], c[..., _ALL])


def _acc_plus(c: Array) -> Array:
    return ratio(c[..., _BOTH], c[..., _PAIRS])


def _points(c: Array) -> Array:
    return 100 * _acc(c) + 100 * _acc_plus(c)


METRICS = (
    Metric("acc", _acc, "higher", "share of right answers"),
    Metric("acc+", _acc_plus, "higher", "share of images with both questions right", independent=(_BOTH, _PAIRS)),
    Metric("score", _points, "higher", "100 acc + 100 acc+, at most 200", percent=False, highest=200.0, headline=1),
    Metric("yes_ratio", lambda c: ratio(c[..., _YES], c[..., _ALL]), "neither", **YES_RATIO),
)


@dataclass(frozen=True)
class SubtaskResult:
    """One subtask, scored. `verdicts[i]` is what answer i was read as; `other` answers are neither yes nor no, and
    wrong. `positional` is the score with two neighbouring lines as a pair, as the published script takes them whatever
    images they are about; None where the number of lines is odd, on which that script stops.
    """

    parser: str
    verdicts: tuple[YesNoVerdict, ...]
    counts: dict[str, int]
    positional: float | None
    tally: Tally

    @property
    def other(self) -> int:
        return sum(verdict.label is None for verdict in self.verdicts)

    @property
    def metrics(self) -> dict[str, Any]:
        """acc, acc+ (fractions), score (0-200), and what the published script counts over answers that are yes or no:
        TP, FN, TN, FP, precision, recall (None where undefined); `other` is its `other_num`.
        """
        c = self.counts
        answers = {"questions": len(self.verdicts), "images": len(self.tally.images)}
        shares = {"precision": _quotient(c["TP"], c["TP"] + c["FP"]), "recall": _quotient(c["TP"], c["TP"] + c["FN"])}
        return {**self.tally.values, **answers, "other": self.other, **c, **shares}


def _quotient(a: int, b: int) -> float | None:
    return a / b if b else None


def score(
    questions: Sequence[MmeQuestion],
    answers: Sequence[str],
    parser: str = "official",
    *,
    p_yes: Sequence[float | None] = (),
    positional: bool = False,
) -> dict[str, SubtaskResult]:
    """Score the answers (one a question, in order) by subtask, in the published order.

    Two questions of one image are a pair, wherever they stand. Raises UserError where an image has not exactly one
    question answered by yes and one by no, or the numbers of questions and answers differ. `positional`: lines 2k and
    2k+1 of a subtask are a pair (whatever their images and labels); it must have an even number.
    """
    if parser not in PARSERS:
        raise UserError(f"MME has no parser {parser!r}", hint=f"choose one of {', '.join(PARSERS)}")
    if len(questions) != len(answers):
        raise UserError(f"{len(questions)} MME questions but {len(answers)} answers")
    if positional:
        questions = _by_position(questions)
    verdicts = [PARSERS[parser](answer) for answer in answers]
    places: dict[str, list[int]] = {}
    for place, question in enumerate(questions):
        places.setdefault(question.subtask, []).append(place)
    return {
        subtask: _score_subtask(
            [questions[i] for i in places[subtask]],
            [verdicts[i] for i in places[subtask]],
            parser,
            [p_yes[i] for i in places[subtask]] if p_yes else (),
            check_lines if positional else check_pairs,
        )
        for subtask in sorted(places, key=lambda name: (list(IMAGES).index(name) if name in IMAGES else 99, name))
    }


def _score_subtask(
    questions: Sequence[MmeQuestion],
    verdicts: Sequence[YesNoVerdict],
    parser: str,
    p_yes: Sequence[float | None],
    check: Callable[[Sequence[MmeQuestion]], None],
) -> SubtaskResult:
    check(questions)
    right = [verdict.label == question.label for verdict, question in zip(verdicts, questions, strict=True)]
    rows = np.zeros((len(questions), 5), dtype=np.int64)
    rows[:, _CORRECT], rows[:, _ALL] = right, 1
    rows[:, _YES] = [verdict.label == "yes" for verdict in verdicts]
    counts = dict.fromkeys(("TP", "FN", "TN", "FP"), 0)
    for question, verdict in zip(questions, verdicts, strict=True):
        if verdict.label is not None:
            counts[{"yes": ("FN", "TP"), "no": ("FP", "TN")}[question.label][verdict.label == question.label]] += 1
    named = [f"{question.subtask}/{question.image}" for question in questions]
    images, sums = by_image(named, rows)
    sums[:, _BOTH], sums[:, _PAIRS] = sums[:, _CORRECT] == 2, 1
    return SubtaskResult(
        parser=parser,
        verdicts=tuple(verdicts),
        counts=counts,
        positional=_positional(right),
        tally=Tally(
            images,
            sums,
            METRICS,
            outcomes={question.key: ok for question, ok in zip(questions, right, strict=True)},
            paired_metric="acc",
            ranking=ranking(images, named, p_yes, [question.label == "yes" for question in questions]),
        ),
    )


def _by_position(questions: Sequence[MmeQuestion]) -> list[MmeQuestion]:
    """The questions with lines 2k and 2k+1 of each subtask as one image."""
    place: dict[str, int] = {}
    renamed = []
    for question in questions:
        number = place[question.subtask] = place.get(question.subtask, -1) + 1
        renamed.append(replace(question, image=f"pair {number // 2 + 1}"))
    return renamed


def check_lines(questions: Sequence[MmeQuestion]) -> None:
    """Raises UserError where the lines of a subtask can't be taken two by two."""
    if len(questions) % 2:
        last = questions[-1]
        raise UserError(
            f"{last.where or last.subtask}: {last.subtask} has {len(questions)} lines, no pairs two by two",
            hint="leave pairs=positional out, and the questions of an image are its pair",
        )


def check_pairs(questions: Sequence[MmeQuestion]) -> None:
    """Raises UserError where an image of a subtask has not exactly one yes and one no question."""
    labels: dict[str, list[MmeQuestion]] = {}
    for question in questions:
        labels.setdefault(question.image, []).append(question)
    for image, pair in labels.items():
        if sorted(question.label for question in pair) != ["no", "yes"]:
            found = " and ".join(question.label for question in pair)
            where = pair[-1].where or f"{pair[-1].subtask} {image}"
            raise UserError(
                f"{where}: {image} has {len(pair)} question{'s' if len(pair) > 1 else ''} ({found}); "
                "MME asks one that is answered by yes and one by no",
                hint="is a line missing or there twice?",
            )


def _positional(right: Sequence[bool]) -> float | None:
    if len(right) % 2:
        return None
    both = [a and b for a, b in zip(right[::2], right[1::2], strict=True)]
    return 100 * sum(right) / len(right) + 100 * sum(both) / len(both)


def group_tally(results: Mapping[str, SubtaskResult], group: str) -> Tally | None:
    """The sum of scores of a group, its subtasks' images resampled together; None where a subtask is missing."""
    members = GROUPS[group]
    if any(name not in results for name in members):
        return None
    images = tuple(dict.fromkeys(image for name in members for image in results[name].tally.images))
    counts = np.concatenate([aligned(results[name].tally, images) for name in members], axis=1)

    def parts(c: Array) -> Array:
        return c.reshape(*c.shape[:-1], len(members), 5)

    def yes_ratio(c: Array) -> Array:
        return ratio(parts(c)[..., _YES].sum(-1), parts(c)[..., _ALL].sum(-1))

    metrics = (
        Metric(
            "score",
            lambda c: _points(parts(c)).sum(-1),
            "higher",
            "sum of its subtasks' scores",
            percent=False,
            highest=200.0 * len(members),
            headline=1,
        ),
        Metric("yes_ratio", yes_ratio, "neither", **YES_RATIO),
    )
    return Tally(images, counts, metrics)


def sums(results: Mapping[str, SubtaskResult], *, positional: bool = False) -> dict[str, float | None]:
    """Perception, cognition, hallucination subset and total; None where a subtask is missing."""
    points = {name: r.positional if positional else r.tally.values["score"] for name, r in results.items()}
    found: dict[str, float | None] = {}
    for group, members in GROUPS.items():
        scores = [points.get(name) for name in members]
        found[group] = (
            None if any(value is None for value in scores) else float(sum(v for v in scores if v is not None))
        )
    return found
