"""NLVR2, BLINK, Mantis-Eval and MVBench asked through the engine, and scored on answers made elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mmpo.data.records import write_lines
from mmpo.errors import UserError
from mmpo.eval.embedded import PictureFolder
from mmpo.eval.multiple_choice.metrics import (
    LETTERS,
    ChoiceQuestion,
    by_category,
    is_right,
    read_choices,
    read_option,
    score,
)
from mmpo.eval.multiple_choice.settings import FormatName, MultipleChoiceSettings
from mmpo.eval.protocol import FrameChoice, Grade, Part, Request, Response, cut_off
from mmpo.eval.scoring import Scored, ScoreRequest, answers_by_id, of_answers, scorer
from mmpo.eval.task import Context, QuestionTask, benchmark


@benchmark("multiple_choice", settings=MultipleChoiceSettings, needs="published questions and their images or videos")
class MultipleChoice(QuestionTask[MultipleChoiceSettings, ChoiceQuestion]):
    """Published questions. `partial`: those whose pictures can't be used are left out and counted."""

    partial = True

    def __init__(self, settings: MultipleChoiceSettings, context: Context) -> None:
        super().__init__(settings, context)
        own = settings
        if not own.questions:
            raise UserError("multiple_choice needs its questions", hint="set eval.multiple_choice.questions")
        self._pictures = PictureFolder(
            Path(context.cache or ".") / "multiple_choice_pictures", own.images or str(Path(own.questions[0]).parent)
        )
        choices = [choice for path in own.questions for choice in read_choices(own.format, path)]
        self.questions = choices[: context.limit]
        self._requests = {choice.id: self._request_of(choice) for choice in self.questions}
        files = ", ".join(Path(path).name for path in own.questions)
        self.conventions = [
            f"multiple_choice: {own.format}, {len(self.questions)} questions of {files}, with options and "
            f"{own.prompt_suffix!r}, greedy, at most {own.max_new_tokens} tokens; letters read by mmpo's own rule, "
            "unreadable answers count as wrong"
        ]

    def parts(self, given: Sequence[tuple[ChoiceQuestion, Response]]) -> list[Part]:
        tally, unread = score([choice for choice, _ in given], [response.text for _, response in given])
        return [Part(None, tally, len(given), cut_off(given), unread)]

    def grade(self, question: ChoiceQuestion, response: Response) -> Grade:
        right, _ = is_right(question, response.text)
        shown = [f"({letter}) {option}" for letter, option in zip(LETTERS, question.options, strict=False)]
        read = read_option(response.text, question.options) if shown else None
        expected = shown[question.answer] if isinstance(question.answer, int) else question.answer
        return Grade(expected, None if read is None else shown[read], right, question.category or None)

    def write(self, folder: Path, responses: Mapping[str, Mapping[Request, Response]]) -> None:
        for state, given in responses.items():
            rows = [{"id": choice.id, "answer": response.text} for choice, response in self.answered(given)]
            write_lines(folder / f"answers_{state}.jsonl", rows)

    def request(self, question: ChoiceQuestion) -> Request:
        return self._requests[question.id]

    def _request_of(self, choice: ChoiceQuestion) -> Request:
        own = self.settings
        prompt = choice.prompt + (own.prompt_suffix if choice.options else "")
        if choice.video is not None:
            return Request(choice.video, prompt, own.max_new_tokens, self._pictures.root, FrameChoice(own.frames))
        root, names = self._pictures.placed(choice.images)
        return Request(names[0] if names else None, prompt, own.max_new_tokens, root, more=tuple(names[1:]))


def _scored(format: FormatName, request: ScoreRequest) -> Scored:
    assert request.questions is not None
    paths = sorted(request.questions.glob("*.json*")) if request.questions.is_dir() else [request.questions]
    choices = [choice for path in paths for choice in read_choices(format, path)]
    answers, unknown = answers_by_id(
        request.answers,
        {choice.id for choice in choices},
        ("id", "idx", "identifier"),
        ("answer", "prediction", "pred", "text"),
    )
    given = [(choice, Response(answers[choice.id], False)) for choice in choices if choice.id in answers]
    (part,) = MultipleChoice.on(choices, MultipleChoiceSettings(format=format)).parts(given)
    metrics: dict[str, object] = {**part.tally.values}
    categories = by_category([choice for choice, _ in given], [response.text for _, response in given])
    if categories:
        metrics["mean_over_categories"] = sum(categories.values()) / len(categories)
        metrics["categories"] = categories
    how = f"{format}: fractions; an option is read from its letter, else from its text; unreadable counts as wrong"
    return of_answers(metrics, [how], len(given), len(choices), unknown, part.unparsed or 0)


def _register(format: FormatName) -> Callable[[ScoreRequest], Scored]:
    @scorer(format, needs=("questions",))
    def score_format(request: ScoreRequest) -> Scored:
        """Answers as rows of `id` and `answer`."""
        return _scored(format, request)

    return score_format


SCORED: dict[FormatName, Callable[[ScoreRequest], Scored]] = {
    name: _register(name) for name in ("nlvr2", "blink", "mantis_eval", "mvbench")
}
