"""The multi-image benchmark asked through the engine, and scored on answers made elsewhere."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

from mmpo.data.layouts import Composer
from mmpo.data.layouts.compose import picture_in_picture
from mmpo.data.records import write_lines
from mmpo.eval.multi_image.metrics import (
    MultiQuestion,
    build_questions,
    read_answer,
    read_questions,
    score,
    write_questions,
)
from mmpo.eval.multi_image.settings import MultiImageSettings
from mmpo.eval.protocol import Grade, Part, Request, Response, cut_off, require_annotations
from mmpo.eval.scoring import Scored, ScoreRequest, answers_by_id, of_answers, scorer
from mmpo.eval.task import Context, QuestionTask, benchmark
from mmpo.eval.yes_no import ParserName
from mmpo.files.atomic import write_bytes
from mmpo.files.images import encode_image, load_image
from mmpo.progress import track

PICTURES = "multi_image_pictures"


@benchmark("multi_image", settings=MultiImageSettings, needs="annotated images")
class MultiImage(QuestionTask[MultiImageSettings, MultiQuestion]):
    """Questions about one of several pictures. Collages and pictures in a picture are made once, in the folder where
    responses are kept."""

    looks = "settings"

    def __init__(self, settings: MultiImageSettings, context: Context) -> None:
        super().__init__(settings, context)
        ready = require_annotations(context.annotated, "multi_image")
        self._root = ready.images[0].root
        self._folder = Path(context.cache or ".") / PICTURES
        self._composer = Composer()
        self.questions = build_questions(ready.truth, ready.vocabulary.names, self.settings)
        self._requests = {
            question.id: self._request_of(question)
            for question in track(self.questions, "composing pictures", len(self.questions))
        }
        sizes = {"sequence": self.settings.sequence_sizes, "collage": self.settings.collage_sizes, "pic_in_pic": [2]}
        shown = "; ".join(f"{name} of {', '.join(map(str, sizes[name]))}" for name in self.settings.layouts)
        self.conventions = [
            f"multi_image: {self.settings.prompts} prompts a layout ({shown}), seed {self.settings.seed}, parser "
            f"{self.settings.parser}, greedy, at most {self.settings.max_new_tokens} tokens; interference: yes to an "
            "object that only another picture shows; confusion: another image named as the one that shows it; answers "
            "that can't be read count as wrong"
        ]

    def parts(self, given: Sequence[tuple[MultiQuestion, Response]]) -> list[Part]:
        layouts = dict.fromkeys(question.layout for question, _ in given)
        parts = [self._part(name, [one for one in given if one[0].layout == name]) for name in layouts]
        return parts if len(self.settings.layouts) == 1 else [*parts, self._part(None, given)]

    def _part(self, layout: str | None, given: Sequence[tuple[MultiQuestion, Response]]) -> Part:
        tally, unread = score(
            [question for question, _ in given], [response.text for _, response in given], self.settings.parser
        )
        return Part(
            layout or "all layouts",
            tally if layout else replace(tally, categories={}),
            len(given),
            cut_off(given),
            unparsed=unread,
            total=layout is None,
            near_ties=self.near_ties([one for one in given if one[0].kind != "which"]),
        )

    def grade(self, question: MultiQuestion, response: Response) -> Grade:
        read = read_answer(question, response.text, self.settings.parser).answer
        return Grade(question.answer, read, read == question.answer, question.layout)

    def write(self, folder: Path, responses: Mapping[str, Mapping[Request, Response]]) -> None:
        write_questions(folder / "questions.jsonl", self.questions)
        for state, given in responses.items():
            rows = [{"id": question.id, "answer": response.text} for question, response in self.answered(given)]
            write_lines(folder / f"answers_{state}.jsonl", rows)

    def request(self, question: MultiQuestion) -> Request:
        return self._requests[question.id]

    def _request_of(self, question: MultiQuestion) -> Request:
        own = self.settings
        if question.layout == "sequence":
            first, *more = question.pictures
            return Request(first, question.prompt, own.max_new_tokens, more=tuple(more))
        name = self._composed(question.layout, question.pictures)
        return Request(name, question.prompt, own.max_new_tokens, str(self._folder))

    def _composed(self, layout: str, paths: Sequence[str]) -> str:
        """The file of a composed picture, made if it isn't there."""
        digest = hashlib.sha256("\x1f".join([layout, str(self._root), *paths]).encode()).hexdigest()[:16]
        name = f"{layout}-{digest}.png"
        if not (self._folder / name).exists():
            pictures = [load_image(path, root=self._root) for path in paths]
            made = picture_in_picture(*pictures) if layout == "pic_in_pic" else self._composer.collage(pictures, paths)
            write_bytes(self._folder / name, encode_image(made.picture))
        return name


@scorer("multi_image", parsers=get_args(ParserName), needs=("questions",))
def score_multi_image(request: ScoreRequest) -> Scored:
    """Answers to the questions that `mmpo eval` wrote: rows of `id` and `answer`."""
    assert request.questions is not None
    parser = get_args(ParserName)[0] if request.parser is None else request.parser
    questions = list({question.id: question for question in read_questions(request.questions)}.values())
    answers, unknown = answers_by_id(request.answers, {q.id for q in questions}, ("id",), ("answer", "text"))
    given = [(question, Response(answers[question.id], False)) for question in questions if question.id in answers]
    settings = MultiImageSettings.model_validate({"parser": parser})
    *layouts, total = MultiImage.on(questions, settings).parts(given)
    return of_answers(
        {**{str(part.split): part.tally.shown() for part in layouts}, "all layouts": total.tally.values},
        [
            f"fractions; yes and no read by the rule {parser}, image numbers by `Image 3`, an ordinal or a bare number",
            "interference: yes to an object that only another picture shows; confusion: another image named",
        ],
        *(len(given), len(questions), unknown, total.unparsed or 0),
    )
