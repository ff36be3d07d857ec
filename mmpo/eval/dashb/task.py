"""DASH-B asked through the engine, and scored on answers made elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mmpo.data.records import read_records, text_of
from mmpo.errors import UserError
from mmpo.eval.dashb.metrics import DashQuestion, read_questions, score
from mmpo.eval.dashb.settings import DashBSettings
from mmpo.eval.protocol import Part, Request, Response, cut_off
from mmpo.eval.scoring import Scored, ScoreRequest, of_answers, scorer
from mmpo.eval.statistics.compare import intervals
from mmpo.eval.task import Context, QuestionTask, benchmark
from mmpo.eval.yes_no import parse
from mmpo.files.atomic import write_json


@benchmark("dashb", settings=DashBSettings, needs="its folder of images")
class DashB(QuestionTask[DashBSettings, DashQuestion]):
    """The published pictures; with `limit` as many with the object as without."""

    partial = True

    def __init__(self, settings: DashBSettings, context: Context) -> None:
        super().__init__(settings, context)
        if settings.folder is None:
            raise UserError("dashb needs its folder", hint="set eval.dashb.folder to DASH-B's folder `images`")
        questions = read_questions(settings.folder)
        if context.limit is not None:
            sides = [[one for one in questions if one.label == label] for label in ("no", "yes")]
            questions = [one for side in sides for one in side[: max(1, context.limit // 2)]]
        self.questions = questions
        self.conventions = [
            f"DASH-B: {len(questions)} pictures, prompt and reader (`dash`) as published; greedy, at most "
            f"{settings.max_new_tokens} tokens"
        ]

    def request(self, question: DashQuestion) -> Request:
        return Request(question.image, question.prompt, self.settings.max_new_tokens, self.settings.folder)

    def parts(self, given: Sequence[tuple[DashQuestion, Response]]) -> list[Part]:
        tally, unread = score([question for question, _ in given], [response.text for _, response in given])
        return [Part(None, tally, len(given), cut_off(given), unread, near_ties=self.near_ties(given))]

    def write(self, folder: Path, responses: Mapping[str, Mapping[Request, Response]]) -> None:
        """The answer file of the authors' script: a list in the order of the pictures."""
        for state, given in responses.items():
            rows = [
                {"img_id": Path(q.image).name, "object_name": q.name, "gt": q.label, "response": one.text,
                 "answer": parse(one.text, "dash").label}
                for q, one in self.answered(given)
            ]  # fmt: skip
            write_json(folder / f"answers_{state}.json", rows)


@scorer("dashb")
def score_dashb(request: ScoreRequest) -> Scored:
    """The authors' answer file, which holds the right answers: a list of `object_name`, `gt` and `response`."""
    questions, texts = [], []
    for number, (where, row) in enumerate(read_records(request.answers)):
        label = text_of(row, ("gt",), where)
        if label not in ("yes", "no"):
            raise UserError(f"{where}: `gt` must be yes or no, found {label!r}")
        name = f"{number} {text_of(row, ('img_id',), where)}"
        questions.append(DashQuestion(name, text_of(row, ("object_name",), where), label))  # type: ignore[arg-type]
        texts.append(text_of(row, ("response",), where))
    tally, unread = score(questions, texts)
    scored = of_answers(tally.shown(), ["fractions; reader dash"], len(texts), len(questions), 0, unread)
    scored.intervals.update(intervals(tally))
    return scored
