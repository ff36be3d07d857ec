"""HallusionBench as a benchmark: asked through the engine, judged by a text model or by a yes/no rule."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mmpo.chat.judging import opened, require_all
from mmpo.chat.templates import template_version
from mmpo.errors import UserError
from mmpo.eval.hallusionbench import judge as hbj
from mmpo.eval.hallusionbench import metrics as hb
from mmpo.eval.hallusionbench.settings import HallusionBenchSettings
from mmpo.eval.protocol import Part, Request, Response, cut_off
from mmpo.eval.statistics.statistics import Array, ratio
from mmpo.eval.statistics.tally import Direction, Metric, Tally, by_image, share
from mmpo.eval.task import Context, JudgedTask, benchmark
from mmpo.files.atomic import write_text

_COUNTED = (
    "answers", "right", "groups", "groups_right", "figures", "figures_right", "easy", "easy_right", "hard",
    "hard_right", "said_yes", "yes", "wrong", "wrong_no", "attributed", *hb.CAUSES,
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
    for name in hb.CAUSES
)


Verdicts = tuple[list[int], list[int] | None, int]
"""Verdicts, whether answers say the same (None: not asked), and how many could not be read."""


@benchmark("hallusionbench", settings=HallusionBenchSettings, needs="its questions and figures")
class HallusionBench(JudgedTask[HallusionBenchSettings, hb.HallusionQuestion, Verdicts]):
    """The published questions; those without an image are asked without one."""

    def __init__(self, settings: HallusionBenchSettings, context: Context) -> None:
        super().__init__(settings, context)
        own = self.settings
        if own.questions is None or own.images is None:
            raise UserError(
                "hallusionbench needs its questions and figures",
                hint="set eval.hallusionbench.questions to HallusionBench.json and .images to the folder with VD/ and "
                "VS/",
            )
        self.by_model = self.wants_model("eval.hallusionbench.judged_by", own.judged_by)
        if own.attribution and not self.by_model:
            raise UserError("eval.hallusionbench.attribution needs a judge", hint="set eval.judge (docs/judges.md)")
        questions = hb.read_questions(own.questions)
        if own.question_set == "image":
            questions = [question for question in questions if question.image is not None]
        self.questions = questions[: context.limit]
        self.conventions = self._conventions()

    def parts(self, given: Sequence[tuple[hb.HallusionQuestion, Response]]) -> list[Part]:
        verdicts, same, unparsed = self.judged(given)
        return [Part(None, tally(_filled(given), verdicts, same), len(given), cut_off(given), unparsed)]

    def write(self, folder: Path, responses: Mapping[str, Mapping[Request, Response]]) -> None:
        for state, given in responses.items():
            write_predictions(folder / f"result_{state}.json", _filled(self.answered(given)))

    def judge(self, given: Sequence[tuple[hb.HallusionQuestion, Response]]) -> Verdicts:
        own, answered = self.settings, _filled(given)
        if not self.by_model:
            verdicts = hb.yes_no_verdicts(answered, own.yes_no)
            return verdicts, None, verdicts.count(hb.UNCLEAR)
        with opened(self.context.judge, self.context.cache, "hallusionbench") as chat:
            found = hbj.correctness(chat, answered, mode=own.parser, template=own.correct_template)
            require_all(found, "hallusionbench")
            same = None
            if own.attribution:
                compared = hbj.sameness(chat, answered, mode=own.parser, template=own.same_template)
                require_all([one for one in compared if one is not None], "hallusionbench")
                same = [hbj.same_flag(one) for one in compared]
        return [hbj.verdict(one) for one in found], same, sum(one.value is None for one in found)

    def _conventions(self) -> list[str]:
        own = self.settings
        asked = f"question followed by {own.prompt_suffix!r}" if own.prompt_suffix else "question alone"
        if self.context.judge is not None and self.by_model:
            judged = f"judged by {self.context.judge.model} with {template_version(own.correct_template)}, read by the "
            judged += f"{own.parser} rule"
        else:
            judged = f"judged by yes and no, read by the {own.yes_no} rule; neither is unclear"
        return [
            f"HallusionBench: {len(self.questions)} of {hb.QUESTIONS} questions ({own.question_set}), {asked}, greedy, "
            f"at most {own.max_new_tokens} tokens; {judged}",
            "HallusionBench: its images are sets of figures here (intervals resample sets, which hold whole groups); "
            "unclear is right where no image is shown",
        ]

    def request(self, question: hb.HallusionQuestion) -> Request:
        root = None if question.image is None else self.settings.images
        return Request(
            question.image, question.question + self.settings.prompt_suffix, self.settings.max_new_tokens, root
        )


def _filled(given: Sequence[tuple[hb.HallusionQuestion, Response]]) -> list[hb.HallusionQuestion]:
    return [replace(question, prediction=response.text) for question, response in given]


def tally(
    questions: Sequence[hb.HallusionQuestion], verdicts: Sequence[int], same: Sequence[int] | None = None
) -> Tally:
    """Counts by set of figures, which no group of questions crosses, with outcomes by question."""
    right = [hb.is_right(question, verdict) for question, verdict in zip(questions, verdicts, strict=True)]
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
        columns["yes"] = question.answer == "yes"
        columns["said_yes"] = columns["yes"] == ok
        if same is not None:
            why = hb.cause(question, verdicts[number], zeros.get(question.group), same[number])
            columns |= {} if why is None else {"attributed": 1, why: 1}
        count(question.set, **columns)
    kinds = (
        ("groups", hb.groups(rows, lambda q: q.group)),
        ("figures", hb.groups(rows, lambda q: q.figure, lambda q: not q.imageless_case)),
        ("easy", hb.groups(rows, lambda q: q.group, lambda q: q.visual_input != 2)),
        ("hard", hb.groups(rows, lambda q: q.group, lambda q: q.visual_input == 2)),
    )
    for kind, found in kinds:
        for (category, subcategory, set_id, _), marks in found.items():
            count(f"{category}/{subcategory}/{set_id}", **{kind: 1, f"{kind}_right": all(marks)})
    sets, counts = by_image(names, np.stack(counted))
    return Tally(
        sets,
        counts,
        METRICS if same is None else (*METRICS, *ATTRIBUTION_METRICS),
        {question.key: ok for question, ok in rows},
        paired_metric="aAcc",
        categories={question.key: f"{question.category} {question.subcategory}" for question, _ in rows},
    )


def write_predictions(path: str | Path, questions: Sequence[hb.HallusionQuestion]) -> None:
    """Write the published form: the records with `model_prediction`."""
    rows = [
        {
            "category": one.category,
            "subcategory": one.subcategory,
            "visual_input": str(one.visual_input),
            "set_id": one.set_id,
            "figure_id": one.figure_id,
            "question_id": one.question_id,
            "question": one.question,
            "gt_answer_details": one.details,
            **({} if one.answer is None else {"gt_answer": "1" if one.answer == "yes" else "0"}),
            "filename": None if one.image is None else f"./{one.image}",
            "model_prediction": one.prediction,
        }
        for one in questions
    ]
    write_text(path, json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
