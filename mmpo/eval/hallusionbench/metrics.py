"""HallusionBench (Guan et al., CVPR 2024, arXiv 2310.14566): yes/no questions about figures and their edited twins.

1,129 questions; the same question stands for several figures (original, edited, in the VS half also none at all). A
verdict says whether a prediction is right (1), wrong (0) or unclear (2); all accuracies are made of verdicts, so it
matters little who gives them: a judge, or a yes/no rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from mmpo.data.records import read_records, text_of
from mmpo.errors import UserError
from mmpo.eval.yes_no import parse

QUESTIONS = 1129
WRONG, RIGHT, UNCLEAR = 0, 1, 2
Cause = Literal["language_hallucination", "visual_illusion", "mixed"]
CAUSES: tuple[Cause, ...] = ("language_hallucination", "visual_illusion", "mixed")

Key = tuple[str, str, str, str, str]


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
        """What names the question in every file."""
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


def read_questions(path: str | Path) -> list[HallusionQuestion]:
    """Read HallusionBench.json, with or without `model_prediction`. Raises UserError naming the entry."""
    questions: list[HallusionQuestion] = []
    seen: dict[Key, str] = {}
    for where, record in read_records(path):
        question = _question(record, where)
        if question.key in seen:
            raise UserError(f"{where}: question {'/'.join(question.key)} is already at {seen[question.key]}")
        seen[question.key] = where
        questions.append(question)
    return questions


def join(
    questions: Sequence[HallusionQuestion], answered: Sequence[HallusionQuestion], *, partial: bool = False
) -> tuple[list[HallusionQuestion], dict[str, int]]:
    """The questions with the predictions of an answer file, and how many predictions were left out, by reason.

    Raises UserError where a question is not answered, or an answer is to a question with other words. With `partial`
    these are left out instead.
    """
    known = {question.key: question for question in questions}
    joined: dict[Key, HallusionQuestion] = {}
    left_out: dict[str, int] = {}
    for one in answered:
        question = known.get(one.key)
        reason = "unknown_question" if question is None else ""
        if question is not None and question.question.strip() != one.question.strip():
            reason = "other_words"
        if reason and not partial:
            raise UserError(
                f"{one.where}: {'/'.join(one.key)} is {reason.replace('_', ' ')} in the question file",
                hint="are questions and answers of the same release? `--set partial=yes` leaves such answers out",
            )
        if reason:
            left_out[reason] = left_out.get(reason, 0) + 1
        elif question is not None:
            joined[one.key] = replace(question, prediction=one.prediction)
    missing = [question for question in questions if question.key not in joined]
    if missing and not partial:
        raise UserError(
            f"{len(missing)} of {len(questions)} questions have no answer, the first: {missing[0].where}",
            hint="`--set partial=yes` scores the rest",
        )
    return list(joined.values()), left_out


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


def metrics(
    questions: Sequence[HallusionQuestion], verdicts: Sequence[int], same: Sequence[int] | None = None
) -> dict[str, Any]:
    """Every published number, in percent with 4 decimals (bias numbers as fractions). None is undefined.

    `easy_aAcc` and `hard_aAcc` are group accuracies despite their published names: groups of one question over the
    figures that are not, or are, edited. `same` (1 if a prediction says the same as its group's figure 0) adds the
    error attribution.
    """
    if not questions:
        raise UserError("there are no answers to score")
    right = [is_right(question, verdict) for question, verdict in zip(questions, verdicts, strict=True)]
    rows = list(zip(questions, right, strict=True))
    per_figure = groups(rows, lambda q: q.figure, lambda q: not q.imageless_case)
    found = {
        "aAcc": _percent(sum(right), len(right)),
        "qAcc": _share(groups(rows, lambda q: q.group)),
        "fAcc": _share(per_figure),
        "easy_aAcc": _share(groups(rows, lambda q: q.group, lambda q: q.visual_input != 2)),
        "hard_aAcc": _share(groups(rows, lambda q: q.group, lambda q: q.visual_input == 2)),
    }
    three = [found["aAcc"], found["fAcc"], found["qAcc"]]
    found["average"] = None if None in three else round(sum(value for value in three if value is not None) / 3, 4)
    halves = {half: [ok for q, ok in rows if q.category == half] for half in ("VD", "VS")}
    return {
        **found,
        "aAcc_by_category": {half: _percent(sum(ok), len(ok)) for half, ok in halves.items() if ok},
        "consistency": consistency(per_figure),
        "yes_no_bias": yes_no_bias(questions, right),
        "attribution": None if same is None else attribution(questions, verdicts, same),
        "n_questions": len(questions),
        "n_question_groups": len({q.group for q in questions}),
        "n_figures": len(per_figure),
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


def consistency(per_figure: dict[tuple[str, ...], list[bool]]) -> dict[str, float | None]:
    """Figures with all questions right, some, and none, in percent."""
    total = len(per_figure)
    all_right = sum(all(marks) for marks in per_figure.values())
    all_wrong = sum(not any(marks) for marks in per_figure.values())
    return {
        "correct": _percent(all_right, total),
        "inconsistent": _percent(total - all_right - all_wrong, total),
        "wrong": _percent(all_wrong, total),
    }


def yes_no_bias(questions: Sequence[HallusionQuestion], right: Sequence[bool]) -> dict[str, float | None]:
    """`diff`: share of yes among predictions minus share among answers, above 0 when yes is said too often, where a
    wrong prediction counts as the opposite of the answer. `fp_ratio`: wrong answers to "no" questions among all wrong.
    """
    known = [(question.answer == "yes", ok) for question, ok in zip(questions, right, strict=True) if question.answer]
    if len(known) != len(questions):
        return {"diff": None, "fp_ratio": None}
    wrong = [yes for yes, ok in known if not ok]
    said_yes = sum(yes == ok for yes, ok in known)
    return {
        "diff": round((said_yes - sum(yes for yes, _ in known)) / len(known), 4),
        "fp_ratio": round(wrong.count(False) / len(wrong), 4) if wrong else None,
    }


def attribution(
    questions: Sequence[HallusionQuestion], verdicts: Sequence[int], same: Sequence[int]
) -> dict[str, float | None]:
    """Shares of the three causes among the attributed answers, in percent (see `cause`)."""
    zero = {q.group: verdict for q, verdict in zip(questions, verdicts, strict=True) if q.figure_id == "0"}
    found = [
        cause(question, verdict, zero.get(question.group), alike)
        for question, verdict, alike in zip(questions, verdicts, same, strict=True)
    ]
    total = sum(one is not None for one in found)
    return {name: _percent(found.count(name), total) for name in CAUSES}


def cause(question: HallusionQuestion, verdict: int, zero: int | None, same: int) -> Cause | None:
    """Why an answer is wrong, by the published decision table; None for a right answer and the cases that it leaves
    open.

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


def _share(found: dict[tuple[str, ...], list[bool]]) -> float | None:
    return _percent(sum(all(marks) for marks in found.values()), len(found))


def _percent(part: int, whole: int) -> float | None:
    return round(100 * part / whole, 4) if whole else None


def _question(record: dict[str, Any], where: str) -> HallusionQuestion:
    names = ("category", "subcategory", "set_id", "figure_id", "question_id", "visual_input")
    values = {}
    for name in names:
        if isinstance(record.get(name), bool) or not isinstance(record.get(name), (str, int)):
            raise UserError(f"{where}: no `{name}`; is this HallusionBench.json?")
        values[name] = str(record[name])
    if values["category"] not in ("VD", "VS") or values["visual_input"] not in ("0", "1", "2"):
        raise UserError(f"{where}: category must be VD or VS and visual_input 0, 1 or 2")
    answer = record.get("gt_answer")
    if answer is not None and str(answer) not in ("0", "1"):
        raise UserError(f"{where}: `gt_answer` must be 1 (yes) or 0 (no), found {answer!r}")
    prediction = record.get("model_prediction")
    if prediction is not None and not isinstance(prediction, str):
        raise UserError(f"{where}: `model_prediction` must be text, found {type(prediction).__name__}")
    return HallusionQuestion(
        category=values["category"],
        subcategory=values["subcategory"],
        set_id=values["set_id"],
        figure_id=values["figure_id"],
        question_id=values["question_id"],
        visual_input=int(values["visual_input"]),
        question=text_of(record, ("question",), where),
        details=text_of(record, ("gt_answer_details",), where),
        answer=None if answer is None else "yes" if str(answer) == "1" else "no",
        prediction=prediction,
        where=where,
    )
