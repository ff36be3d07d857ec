"""Object HalBench as a benchmark: the published questions are asked, and the answers' objects checked."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

from mmpo.chat.judging import opened, require_all
from mmpo.chat.templates import template_version
from mmpo.data.annotations.records import AnnotatedImage
from mmpo.data.records import write_lines
from mmpo.errors import UserError
from mmpo.eval.chair import metrics as chair
from mmpo.eval.descriptions import annotated_images
from mmpo.eval.object_halbench.judge import named_by_model
from mmpo.eval.object_halbench.metrics import (
    HalbenchAnswer,
    HalbenchQuestion,
    HalRow,
    NamedObject,
    answer_reader,
    named_in_words,
    read_questions,
    score,
    write_rows,
)
from mmpo.eval.object_halbench.settings import ObjectHalBenchSettings
from mmpo.eval.protocol import Part, Request, Response, cut_off
from mmpo.eval.statistics.tally import Tally
from mmpo.eval.task import Context, JudgedTask, benchmark
from mmpo.files.atomic import write_bytes
from mmpo.text.object_words import BaseFormReader

_PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")
OWN_WORDS = "objects from the answers' own words, every occurrence (the script without its judge)"
Extracted = tuple[NamedObject, ...] | None
"""The objects that an answer names; None where the judge gave no list."""
_FILE_NAME = re.compile(r"\w[\w.-]*")


@benchmark("object_halbench", settings=ObjectHalBenchSettings, needs="its questions and COCO's annotations")
class ObjectHalBench(JudgedTask[ObjectHalBenchSettings, HalbenchQuestion, list[Extracted]]):
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
        self.truth, self.reader, images = objects_and_reader(own.annotations, own)
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

    def parts(
        self, given: Sequence[tuple[HalbenchQuestion, Response]], named: Sequence[Extracted] | None = None
    ) -> list[Part]:
        """Score by objects extracted elsewhere, or by those of `judge`."""
        named = self.judged(given) if named is None else named
        _, tally = self.scored(given, named)
        return [Part(None, tally, len(given), cut_off(given), named.count(None) if self.by_model else None)]

    def scored(
        self, given: Sequence[tuple[HalbenchQuestion, Response]], named: Sequence[Extracted]
    ) -> tuple[list[HalRow], Tally]:
        """The answers whose objects are known, scored."""
        known = [(answer, names) for answer, names in zip(_answers(given), named, strict=True) if names is not None]
        return score([answer for answer, _ in known], [names for _, names in known], self.truth)

    def write(self, folder: Path, responses: Mapping[str, Mapping[Request, Response]]) -> None:
        """Answers in the published form, and what each names."""
        for state, given in responses.items():
            answered = self.answered(given)
            records = [
                {"image_id": asked.image_id, "question": asked.text, "answer": response.text}
                for asked, response in answered
            ]
            write_lines(folder / f"answers_{state}.jsonl", records)
            write_rows(folder / f"sentences_{state}.jsonl", self.scored(answered, self.judged(answered))[0])

    def judge(self, given: Sequence[tuple[HalbenchQuestion, Response]]) -> list[Extracted]:
        answers = _answers(given)
        if not self.by_model:
            return [*named_in_words(answers, self.reader)]
        with opened(self.context.judge, self.context.cache, "object_halbench") as chat:
            named, judgements = named_by_model(chat, answers, self.reader, self.settings)
        require_all(judgements, "object_halbench")
        return named

    def _extraction(self) -> str:
        if self.context.judge is None or not self.by_model:
            return OWN_WORDS
        return (
            f"objects listed by {self.context.judge.model} at temperature {self.settings.temperature:g} with "
            f"{template_version(self.settings.template)}, each once an answer; unparsed answers are left out"
        )

    def request(self, question: HalbenchQuestion) -> Request:
        return Request(self.paths[question.image_id], question.text, self.settings.max_new_tokens, self.root)


def _answers(given: Sequence[tuple[HalbenchQuestion, Response]]) -> list[HalbenchAnswer]:
    return [HalbenchAnswer(asked.image_id, response.text, asked.text, asked.where) for asked, response in given]


def objects_and_reader(
    path: str | Path, own: ObjectHalBenchSettings
) -> tuple[dict[str, tuple[str, ...]], BaseFormReader, list[AnnotatedImage]]:
    """The objects of every image (by id and by file name), the reader of answers, and the annotated images (none where
    `path` is a table).
    """
    images = annotated_images(path, own.captions)
    if images is None:
        table = chair.read_ground_truth(path)
        vocabulary = chair.vocabulary_for((name for names in table.values() for name in names), own.vocabulary, False)
        known = set(vocabulary.names)
        for number, names in table.items():
            if (unknown := next((name for name in names if name not in known), None)) is not None:
                raise UserError(f"{path}: image {number}: {unknown!r} is not in the vocabulary of {len(known)} names")
        return table, answer_reader(vocabulary, own.words), []
    vocabulary = chair.vocabulary_for((name for image in images for name in image.object_names), own.vocabulary, False)
    reader = answer_reader(vocabulary, own.words)
    truth = chair.objects_in(images, reader)
    for image in images:
        truth.setdefault(image.path, truth[image.id])
    return truth, reader, images


def picture_paths(
    questions: Sequence[HalbenchQuestion], folder: Path, images: Sequence[AnnotatedImage]
) -> dict[str, str]:
    """The path in `folder` of each image id's picture: as the question names it, unpacked there as `ID.jpg` where the
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
