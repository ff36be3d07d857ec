"""HallusionBench (Guan et al., CVPR 2024, arXiv 2310.14566): yes/no questions about figures and their edited twins.

1,129 questions; the same question stands for several figures (original, edited, in the VS half also none at all). A
verdict says whether a prediction is right (1), wrong (0) or unclear (2); all accuracies are made of verdicts, so it
matters little who gives them: a judge, or a yes/no rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from mmpo.errors import UserError
from mmpo.eval.statistics.tally import Direction, Metric, Tally, by_image, share
from mmpo.eval.yes_no import parse
from mmpo.statistics import Array, ratio

QUESTIONS = 1129
WRONG, RIGHT, UNCLEAR = 0, 1, 2
Cause = Literal["language_hallucination", "visual_illusion", "mixed"]
CAUSES: tuple[Cause, ...] = ("language_hallucination", "visual_illusion", "mixed")

Key = tuple[str, str, str, str, str]

_COUNTED = (
    "answers", "right", "groups", "groups_right", "figures", "figures_right", "easy", "easy_right", "hard",
    "hard_right", "figures_wrong", "known", "said_yes", "yes", "wrong", "wrong_no", "attributed", *CAUSES,
)  # fmt: skip
_AT = {name: column for column, name in enumerate(_COUNTED)}


def _rate(name: str, above: str, below: str, meaning: str, better: Direction = "higher", **shown: Any) -> Metric:
    return share(name, _AT[above], _AT[below], better, meaning, **shown)


METRICS = (
    _rate("aAcc", "right", "answers", "share of right answers", headline=1),
    _rate("qAcc", "groups_right", "groups", "share of questions that are right about every figure of a set"),
    _rate("fAcc", "figures_right", "figures", "share of figures with every question right"),
    _rate(
        "easy_aAcc", "easy_right", "easy", "share of groups about unchanged figures that are right", label="easy groups"
    ),
    _rate(
        "hard_aAcc", "hard_right", "hard", "share of groups about edited figures that are right", label="hard groups"
    ),
    Metric(
        "yes_bias",
        lambda c: ratio(c[..., _AT["said_yes"]] - c[..., _AT["yes"]], c[..., _AT["answers"]]),
        "neither",
        "share of answers yes, less the share that should be",
        denominator=lambda c: c[..., _AT["answers"]],
        label="bias to yes",
    ),
    _rate("fp_ratio", "wrong_no", "wrong", "of the wrong answers, the share that should be no", "neither"),
)
ATTRIBUTION_METRICS = tuple(
    _rate(
        name, name, "attributed", f"of the errors with a known cause, the share by {name.replace('_', ' ')}", "neither"
    )
    for name in CAUSES
)


@dataclass(frozen=True)
class HallusionQuestion:
    """One record: `visual_input` 0 no image, 1 original, 2 edited. `answer` is yes, no, or None where the file has
    none (an older release); `prediction` is what the model said.
    """

    category: str
    subcategory: str
    set_id: str
    figure_id: str
    question_id: str
    visual_input: int
    question: str
    details: str
    answer: Literal["yes", "no"] | None
    prediction: str | None = None
    where: str = field(default="", compare=False)

    @property
    def key(self) -> Key:
        """The identity of the question in every file."""
        return (self.category, self.subcategory, self.set_id, self.figure_id, self.question_id)

    @property
    def group(self) -> tuple[str, ...]:
        """The same question about every figure of its set."""
        return (self.category, self.subcategory, self.set_id, self.question_id)

    @property
    def figure(self) -> tuple[str, ...]:
        """All questions about this figure."""
        return (self.category, self.subcategory, self.set_id, self.figure_id)

    @property
    def set(self) -> str:
        """The figures and questions that belong together; no group reaches beyond it."""
        return f"{self.category}/{self.subcategory}/{self.set_id}"

    @property
    def image(self) -> str | None:
        """Its figure's path below the published image folder; None for the image-free questions."""
        if self.visual_input == 0:
            return None
        return f"{self.category}/{self.subcategory}/{self.set_id}_{self.figure_id}.png"

    @property
    def imageless_case(self) -> bool:
        """Figure 0 of VS: no image is shown, so an unclear answer is right too, and it is in no figure accuracy."""
        return self.category == "VS" and self.figure_id == "0"


def yes_no_verdicts(questions: Sequence[HallusionQuestion], rule: str = "vlmevalkit") -> list[int]:
    """Verdicts without a judge: the prediction's yes or no against the answer; neither is unclear. Raises UserError
    where a question has no answer to compare with.
    """
    verdicts = []
    for question in questions:
        if question.answer is None:
            raise UserError(
                f"{question.where}: no `gt_answer`, so a judge is needed",
                hint="or give the current HallusionBench.json as --questions",
            )
        label = parse(question.prediction or "", rule).label
        verdicts.append(UNCLEAR if label is None else int(label == question.answer))
    return verdicts


def is_right(question: HallusionQuestion, verdict: int) -> bool:
    """Right, or unclear where no image was shown."""
    return verdict == RIGHT or (verdict == UNCLEAR and question.imageless_case)


def tally(questions: Sequence[HallusionQuestion], verdicts: Sequence[int], same: Sequence[int] | None = None) -> Tally:
    """Counts by set of figures, which no group of questions crosses, with outcomes by question. `same` (1 if a
    prediction says the same as its group's figure 0) adds the causes of errors. Raises UserError without questions.
    """
    if not questions:
        raise UserError("there are no answers to score")
    right = [is_right(question, verdict) for question, verdict in zip(questions, verdicts, strict=True)]
    rows = list(zip(questions, right, strict=True))
    zeros = {q.group: v for q, v in zip(questions, verdicts, strict=True) if q.figure_id == "0"}
    names: list[str] = []
    counted: list[Array] = []

    def count(place: str, **columns: int) -> None:
        row = np.zeros(len(_COUNTED), dtype=np.int64)
        for name, value in columns.items():
            row[_AT[name]] = value
        names.append(place)
        counted.append(row)

    for number, (question, ok) in enumerate(rows):
        wrong_no = not ok and question.answer == "no"
        columns = {"answers": 1, "right": ok, "wrong": not ok, "wrong_no": wrong_no}
        columns |= {"known": question.answer is not None, "yes": question.answer == "yes"}
        columns["said_yes"] = columns["yes"] == ok
        if same is not None:
            why = cause(question, verdicts[number], zeros.get(question.group), same[number])
            columns |= {} if why is None else {"attributed": 1, why: 1}
        count(question.set, **columns)
    kinds = (
        ("groups", groups(rows, lambda q: q.group)),
        ("figures", groups(rows, lambda q: q.figure, lambda q: not q.imageless_case)),
        ("easy", groups(rows, lambda q: q.group, lambda q: q.visual_input != 2)),
        ("hard", groups(rows, lambda q: q.group, lambda q: q.visual_input == 2)),
    )
    for kind, found in kinds:
        for (category, subcategory, set_id, _), marks in found.items():
            count(f"{category}/{subcategory}/{set_id}", **{kind: 1, f"{kind}_right": all(marks)})
            if kind == "figures" and not any(marks):
                count(f"{category}/{subcategory}/{set_id}", figures_wrong=1)
    sets, counts = by_image(names, np.stack(counted))
    return Tally(
        sets,
        counts,
        METRICS if same is None else (*METRICS, *ATTRIBUTION_METRICS),
        {question.key: ok for question, ok in rows},
        paired_metric="aAcc",
        categories={question.key: f"{question.category} {question.subcategory}" for question, _ in rows},
    )


def metrics(tally: Tally) -> dict[str, Any]:
    """Every published number, in percent with 4 decimals (bias numbers as fractions). None is undefined.

    `easy_aAcc` and `hard_aAcc` are group accuracies despite their published names: groups of one question over the
    figures that are not, or are, edited.
    """
    c = dict(zip(_COUNTED, map(int, tally.counts.sum(0)), strict=True))
    found = {
        "aAcc": _percent(c["right"], c["answers"]),
        "qAcc": _percent(c["groups_right"], c["groups"]),
        "fAcc": _percent(c["figures_right"], c["figures"]),
        "easy_aAcc": _percent(c["easy_right"], c["easy"]),
        "hard_aAcc": _percent(c["hard_right"], c["hard"]),
    }
    three = [found["aAcc"], found["fAcc"], found["qAcc"]]
    found["average"] = None if None in three else round(sum(value for value in three if value is not None) / 3, 4)
    halves = {half: [ok for key, ok in tally.outcomes.items() if key[0] == half] for half in ("VD", "VS")}
    mixed, known = c["figures"] - c["figures_right"] - c["figures_wrong"], c["known"] == c["answers"]
    return {
        **found,
        "aAcc_by_category": {half: _percent(sum(ok), len(ok)) for half, ok in halves.items() if ok},
        "consistency": {
            "correct": found["fAcc"],
            "inconsistent": _percent(mixed, c["figures"]),
            "wrong": _percent(c["figures_wrong"], c["figures"]),
        },
        "yes_no_bias": {
            "diff": round((c["said_yes"] - c["yes"]) / c["answers"], 4) if known else None,
            "fp_ratio": round(c["wrong_no"] / c["wrong"], 4) if known and c["wrong"] else None,
        },
        "attribution": (
            {name: _percent(c[name], c["attributed"]) for name in CAUSES} if CAUSES[0] in tally.values else None
        ),
        "n_questions": c["answers"],
        "n_question_groups": c["groups"],
        "n_figures": c["figures"],
    }


def groups(
    rows: Iterable[tuple[HallusionQuestion, bool]],
    by: Callable[[HallusionQuestion], tuple[str, ...]],
    keep: Callable[[HallusionQuestion], bool] = lambda question: True,
) -> dict[tuple[str, ...], list[bool]]:
    """The right/wrong marks of the kept questions, by group."""
    found: dict[tuple[str, ...], list[bool]] = {}
    for question, right in rows:
        if keep(question):
            found.setdefault(by(question), []).append(right)
    return found


def cause(question: HallusionQuestion, verdict: int, zero: int | None, same: int) -> Cause | None:
    """The cause of a wrong answer, by the published decision table; None for a right answer and the cases that it
    leaves open.

    `zero` is the verdict of the same question about figure 0 of its set (None where that was not asked), `same` whether
    both predictions say the same.
    """
    if verdict == RIGHT:
        return None
    if question.figure_id == "0":
        if question.category == "VD":
            return "visual_illusion"
        return "language_hallucination" if verdict == WRONG else None
    if question.category == "VD":
        return "mixed" if verdict == WRONG and zero == RIGHT and same else "visual_illusion"
    if zero == WRONG:
        return "language_hallucination" if verdict == WRONG and same else "mixed"
    if zero == RIGHT and verdict == WRONG and question.visual_input == 2 and same:
        return "language_hallucination"
    return None if zero is None else "visual_illusion"


def figure_zero(questions: Sequence[HallusionQuestion]) -> list[HallusionQuestion | None]:
    """For each question the same one about figure 0 of its set; None for figure 0 itself and where there is none."""
    zero = {question.group: question for question in questions if question.figure_id == "0"}
    return [None if question.figure_id == "0" else zero.get(question.group) for question in questions]


def _percent(part: int, whole: int) -> float | None:
    return round(100 * part / whole, 4) if whole else None
