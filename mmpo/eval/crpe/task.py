"""CRPE asked through the engine, and scored on answers made elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from mmpo.data.records import write_lines
from mmpo.errors import UserError
from mmpo.eval.crpe.metrics import TURNS, CrpeQuestion, read_questions, score
from mmpo.eval.crpe.settings import CrpeReader, CrpeSettings
from mmpo.eval.protocol import Part, Request, Response, cut_off
from mmpo.eval.scoring import Scored, ScoreRequest, answers_by_id, of_answers, scorer
from mmpo.eval.statistics.compare import intervals
from mmpo.eval.task import Context, QuestionTask, benchmark


@benchmark("crpe", settings=CrpeSettings, needs="its questions and images")
class Crpe(QuestionTask[CrpeSettings, CrpeQuestion]):
    """The published questions; with `limit` whole samples."""

    def __init__(self, settings: CrpeSettings, context: Context) -> None:
        super().__init__(settings, context)
        if not settings.questions:
            raise UserError("crpe needs its questions", hint="set eval.crpe.questions to crpe_relation.jsonl")
        self._root = settings.images or str(Path(settings.questions[0]).parent)
        questions = read_questions(settings.questions)
        self.questions = questions[: None if context.limit is None else TURNS * max(1, context.limit // TURNS)]
        self.conventions = [
            f"CRPE: {len(self.questions)} questions in samples of {TURNS} turns, answers read as {settings.parser}; "
            f"the text of the file alone, greedy, at most {settings.max_new_tokens} tokens"
        ]

    def request(self, question: CrpeQuestion) -> Request:
        return Request(question.image, question.text, self.settings.max_new_tokens, self._root)

    def parts(self, given: Sequence[tuple[CrpeQuestion, Response]]) -> list[Part]:
        questions, texts = [question for question, _ in given], [response.text for _, response in given]
        tallies, _ = score(questions, texts, self.settings.parser)
        parts = []
        for name, tally in tallies.items():
            total = name == "relations"
            own = [(q, r) for q, r in given if q.id in tally.outcomes]
            _, unread = score([q for q, _ in own], [r.text for _, r in own], self.settings.parser)
            parts.append(Part(name, tally, len(own), cut_off(own), unread, total=total))
        return parts

    def write(self, folder: Path, responses: Mapping[str, Mapping[Request, Response]]) -> None:
        """The result file that CRPE's own script reads."""
        for state, given in responses.items():
            rows = [{"question_id": q.id, "text": response.text} for q, response in self.answered(given)]
            write_lines(folder / f"answers_{state}.jsonl", rows)


@scorer("crpe", parsers=get_args(CrpeReader), needs=("questions",))
def score_crpe(request: ScoreRequest) -> Scored:
    """CRPE's result file: rows of `question_id` and `text`, in any order: the questions say what belongs together."""
    assert request.questions is not None
    questions = read_questions([request.questions])
    settings = CrpeSettings.model_validate({} if request.parser is None else {"parser": request.parser})
    answers, unknown = answers_by_id(
        request.answers, {question.id for question in questions}, ("question_id", "id"), ("text", "answer")
    )
    pairs = [(question, Response(answers[question.id], False)) for question in questions if question.id in answers]
    parts = Crpe.on(questions, settings).parts(pairs)
    numbers: dict[str, Any] = {str(part.split): part.tally.shown() for part in parts}
    unread = sum(part.unparsed or 0 for part in parts if not part.total)
    how = f"fractions; answers read as {settings.parser}; whole samples of {TURNS} turns"
    scored = of_answers(numbers, [how], len(pairs), len(questions), unknown, unread)
    scored.intervals.update({str(part.split): intervals(part.tally) for part in parts})
    return scored
