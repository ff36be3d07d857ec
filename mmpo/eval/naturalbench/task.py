"""NaturalBench asked through the engine, and scored on answers made elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mmpo.data.records import write_lines
from mmpo.errors import UserError
from mmpo.eval.embedded import PictureFolder
from mmpo.eval.naturalbench.metrics import NaturalQuestion, read_questions, score
from mmpo.eval.naturalbench.settings import NaturalBenchSettings
from mmpo.eval.protocol import Part, Request, Response, cut_off
from mmpo.eval.scoring import Scored, ScoreRequest, answers_by_id, of_answers, scorer
from mmpo.eval.statistics.compare import intervals
from mmpo.eval.task import Context, QuestionTask, benchmark


@benchmark("naturalbench", settings=NaturalBenchSettings, needs="its rows and their pictures")
class NaturalBench(QuestionTask[NaturalBenchSettings, NaturalQuestion]):
    """The published rows; with `limit` whole ones."""

    def __init__(self, settings: NaturalBenchSettings, context: Context) -> None:
        super().__init__(settings, context)
        if not settings.questions:
            raise UserError("naturalbench needs its rows", hint="set eval.naturalbench.questions")
        folder = Path(context.cache or ".") / "naturalbench_pictures"
        pictures = PictureFolder(folder, settings.images or str(Path(settings.questions[0]).parent))
        questions = read_questions(settings.questions, pictures)
        self.questions = questions[: None if context.limit is None else 4 * max(1, context.limit // 4)]
        self.conventions = [
            f"NaturalBench: {len(self.questions) // 4} rows; the authors' suffixes and reader (an article `a` is "
            f"option A); greedy, {settings.max_new_tokens} tokens"
        ]

    def request(self, question: NaturalQuestion) -> Request:
        return Request(question.image, question.prompt, self.settings.max_new_tokens, question.root)

    def parts(self, given: Sequence[tuple[NaturalQuestion, Response]]) -> list[Part]:
        tally, unread = score([question for question, _ in given], [response.text for _, response in given])
        return [Part(None, tally, len(given), cut_off(given), unread)]

    def write(self, folder: Path, responses: Mapping[str, Mapping[Request, Response]]) -> None:
        for state, given in responses.items():
            rows = [{"id": question.id, "answer": response.text} for question, response in self.answered(given)]
            write_lines(folder / f"answers_{state}.jsonl", rows)


@scorer("naturalbench", needs=("questions",))
def score_naturalbench(request: ScoreRequest) -> Scored:
    """Rows of `id` (INDEX_q0_i1) and `answer`, in any order."""
    assert request.questions is not None
    questions = read_questions([request.questions])
    answers, unknown = answers_by_id(
        request.answers, {question.id for question in questions}, ("id", "question_id"), ("answer", "text")
    )
    pairs = [(question, Response(answers[question.id], False)) for question in questions if question.id in answers]
    (part,) = NaturalBench.on(questions, NaturalBenchSettings()).parts(pairs)
    how = "fractions; the authors' reader (an article `a` is option A); whole rows"
    scored = of_answers(part.tally.shown(), [how], len(pairs), len(questions), unknown, part.unparsed or 0)
    scored.intervals.update(intervals(part.tally))
    return scored
