"""MMVP asked through the engine, and scored on answers made elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

from mmpo.data.records import write_lines
from mmpo.errors import UserError
from mmpo.eval.mmvp.metrics import READERS, MmvpQuestion, read_questions, score
from mmpo.eval.mmvp.settings import GoldName, MmvpSettings, ReaderName
from mmpo.eval.protocol import Grade, Part, Request, Response, cut_off
from mmpo.eval.scoring import Scored, ScoreRequest, answers_by_id, of_answers, scorer
from mmpo.eval.statistics.compare import intervals
from mmpo.eval.task import Context, QuestionTask, benchmark


@benchmark("mmvp", settings=MmvpSettings, needs="its questions and images")
class Mmvp(QuestionTask[MmvpSettings, MmvpQuestion]):
    """The published questions; with `limit` whole pairs."""

    def __init__(self, settings: MmvpSettings, context: Context) -> None:
        super().__init__(settings, context)
        if settings.questions is None:
            raise UserError("mmvp needs its questions", hint="set eval.mmvp.questions to MMVP's Questions.csv")
        self._root = settings.images or str(Path(settings.questions).parent / "MMVP Images")
        questions = read_questions(settings.questions, settings.gold)
        self.questions = questions[: None if context.limit is None else max(2, context.limit // 2 * 2)]
        self.conventions = [
            f"MMVP: {len(self.questions)} questions, answers read as {settings.parser} does, right answers as "
            f"{settings.gold}; the authors' numbers are GPT-4's judgements"
        ]

    def request(self, question: MmvpQuestion) -> Request:
        return Request(f"{question.number}.jpg", question.prompt, self.settings.max_new_tokens, self._root)

    def parts(self, given: Sequence[tuple[MmvpQuestion, Response]]) -> list[Part]:
        texts = [response.text for _, response in given]
        tally, unread = score([question for question, _ in given], texts, self.settings.parser)
        return [Part(None, tally, len(given), cut_off(given), unread)]

    def grade(self, question: MmvpQuestion, response: Response) -> Grade:
        read = READERS[self.settings.parser](response.text, question.options)
        return Grade(question.answer, read, read == question.answer)

    def write(self, folder: Path, responses: Mapping[str, Mapping[Request, Response]]) -> None:
        """MMVP's own answer file, which its grader reads: `answers_before.jsonl` and `answers_after.jsonl`."""
        for state, given in responses.items():
            rows = [
                {"question_id": q.number, "prompt": q.prompt, "answer": f"({q.answer.lower()})", "response": one.text}
                for q, one in self.answered(given)
            ]
            write_lines(folder / f"answers_{state}.jsonl", rows)


@scorer(
    "mmvp",
    parsers=get_args(ReaderName),
    needs=("questions",),
    options={"gold": f"the right answers, {' or '.join(get_args(GoldName))} ({get_args(GoldName)[0]})"},
)
def score_mmvp(request: ScoreRequest) -> Scored:
    """MMVP's answer file: rows of `question_id` and `response`."""
    assert request.questions is not None
    given = {"parser": request.parser, "gold": request.options.get("gold")}
    if given["gold"] not in (None, *get_args(GoldName)):
        raise UserError(f"gold must be {' or '.join(get_args(GoldName))}, got {given['gold']!r}")
    settings = MmvpSettings.model_validate({key: value for key, value in given.items() if value is not None})
    questions = read_questions(request.questions, settings.gold)
    answers, unknown = answers_by_id(
        request.answers, {question.id for question in questions}, ("question_id", "id"), ("response", "answer", "text")
    )
    pairs = [(question, Response(answers[question.id], False)) for question in questions if question.id in answers]
    (part,) = Mmvp.on(questions, settings).parts(pairs)
    how = f"fractions; answers read as {settings.parser} does, right answers as {settings.gold}; whole pairs"
    scored = of_answers(part.tally.shown(), [how], len(pairs), len(questions), unknown, part.unparsed or 0)
    scored.intervals.update(intervals(part.tally))
    return scored
