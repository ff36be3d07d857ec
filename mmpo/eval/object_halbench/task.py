"""Object HalBench as a benchmark: the published questions are asked, and the answers' objects checked."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

from mmpo.chat.judging import opened, require_all, unparsed
from mmpo.chat.templates import template_version
from mmpo.data.annotations.records import AnnotatedImage
from mmpo.data.records import write_lines
from mmpo.errors import UserError
from mmpo.eval.object_halbench.judge import named_by_model
from mmpo.eval.object_halbench.metrics import (
    HalbenchAnswer,
    HalbenchQuestion,
    NamedObject,
    named_in_words,
    read_questions,
    score,
)
from mmpo.eval.object_halbench.score import objects_and_reader, split_unread, write_rows
from mmpo.eval.object_halbench.settings import ObjectHalBenchSettings
from mmpo.eval.protocol import Part, Request, Response, cut_off
from mmpo.eval.task import Context, JudgedTask, benchmark
from mmpo.files.atomic import write_bytes

_PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")
Extracted = tuple[list[HalbenchAnswer], list[tuple[NamedObject, ...]], int]
"""The answers whose objects are known, these, and how many answers the judge gave no list for."""
_FILE_NAME = re.compile(r"\w[\w.-]*")


@benchmark("object_halbench", settings=ObjectHalBenchSettings, needs="its questions and COCO's annotations")
class ObjectHalBench(JudgedTask[ObjectHalBenchSettings, HalbenchQuestion, Extracted]):
    """Detailed descriptions of COCO images, each with its own instruction."""

    partial = True
    looks = "files"

    def __init__(self, settings: ObjectHalBenchSettings, context: Context) -> None:
        super().__init__(settings, context)
        own = self.settings
        # Pictures that the question file holds are unpacked there.
        self.root = context.cache if context.look else own.image_folder or context.images
        for name, value in (
            ("questions", own.questions),
            ("annotations", own.annotations),
            ("image_folder", self.root),
        ):
            if value is None:
                raise UserError(f"object_halbench needs eval.object_halbench.{name}")
        assert own.questions is not None and own.annotations is not None and self.root is not None
        self.questions = list(islice(read_questions(own.questions), context.limit))
        self.truth, self.reader, images = objects_and_reader(
            own.annotations, own.vocabulary, words=own.words, captions=own.captions
        )
        unknown = next((question for question in self.questions if question.image_id not in self.truth), None)
        if unknown is not None:
            raise UserError(f"{unknown.where}: image {unknown.image_id} has no objects in {own.annotations}")
        self.paths = picture_paths(self.questions, Path(self.root), images)
        self.by_model = self.wants_model("eval.object_halbench.extraction", own.extraction)
        self.conventions = [
            f"Object HalBench: {len(self.questions)} questions, greedy, at most {own.max_new_tokens} tokens; "
            + self._extraction(),
            f"Object HalBench: vocabulary {own.vocabulary} ({len(self.reader.vocabulary)} objects), word forms "
            f"{self.reader.identity}; CHAIRs_refine is the published Resp., CHAIRi the published Mention",
        ]

    def parts(self, given: Sequence[tuple[HalbenchQuestion, Response]]) -> list[Part]:
        answers, named, unread = self.judged(given)
        _, tally = score(answers, named, self.truth)
        return [Part(None, tally, len(given), cut_off(given), unread if self.by_model else None)]

    def write(self, folder: Path, responses: Mapping[str, Mapping[Request, Response]]) -> None:
        """Answers in the published form, and what each names."""
        for state, given in responses.items():
            records = [
                {"image_id": answer.image_id, "question": answer.question, "answer": answer.text}
                for answer in _answers(self.answered(given))
            ]
            write_lines(folder / f"answers_{state}.jsonl", records)
            answers, named, _ = self.judged(self.answered(given))
            write_rows(folder / f"sentences_{state}.jsonl", score(answers, named, self.truth)[0])

    def judge(self, given: Sequence[tuple[HalbenchQuestion, Response]]) -> Extracted:
        answers = _answers(given)
        if not self.by_model:
            return answers, named_in_words(answers, self.reader), 0
        with opened(self.context.judge, self.context.cache, "object_halbench") as chat:
            named, judgements = named_by_model(
                chat,
                answers,
                self.reader,
                mode=self.settings.parser,
                template=self.settings.template,
                temperature=self.settings.temperature,
            )
        require_all(judgements, "object_halbench")
        return *split_unread(answers, named), unparsed(judgements)

    def _extraction(self) -> str:
        if self.context.judge is None or not self.by_model:
            return "objects from the answers' own words, every occurrence (the script without its judge)"
        return (
            f"objects listed by {self.context.judge.model} at temperature {self.settings.temperature:g} with "
            f"{template_version(self.settings.template)}, each once an answer; unparsed answers are left out"
        )

    def request(self, question: HalbenchQuestion) -> Request:
        return Request(self.paths[question.image_id], question.text, self.settings.max_new_tokens, self.root)


def _answers(given: Sequence[tuple[HalbenchQuestion, Response]]) -> list[HalbenchAnswer]:
    return [HalbenchAnswer(asked.image_id, response.text, asked.text, asked.where) for asked, response in given]


def picture_paths(
    questions: Sequence[HalbenchQuestion], folder: Path, images: Sequence[AnnotatedImage]
) -> dict[str, str]:
    """Where in `folder` the picture of each image id is: as the question names it, unpacked there as `ID.jpg` where the
    question holds it in base64, else as the annotations name it.

    Raises UserError where none of them says, and for base64 that can't be read.
    """
    annotated = {image.id: image.path for image in images}
    paths: dict[str, str] = {}
    for question in questions:
        if question.image is not None and question.image.lower().endswith(_PICTURES):
            paths[question.image_id] = question.image
        elif question.image is not None:
            paths[question.image_id] = _unpacked(question, question.image, folder)
        elif question.image_id in annotated:
            paths[question.image_id] = annotated[question.image_id]
        else:
            raise UserError(f"{question.where}: no `image`, and the annotations have no file for {question.image_id}")
    return paths


def _unpacked(question: HalbenchQuestion, data: str, folder: Path) -> str:
    name = question.image_id if question.image_id.lower().endswith(_PICTURES) else f"{question.image_id}.jpg"
    if not _FILE_NAME.fullmatch(name):
        raise UserError(f"{question.where}: image id {question.image_id!r} cannot be a file name")
    target = folder / name
    if not target.exists():
        try:
            picture = base64.b64decode(data, validate=True)
        except (binascii.Error, ValueError):
            raise UserError(f"{question.where}: `image` is neither the name of a picture nor base64") from None
        write_bytes(target, picture)
    return name
