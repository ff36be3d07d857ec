"""The multi-image benchmark asked through the engine, and scored on answers made elsewhere."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

from mmpo.data.layouts import Composer
from mmpo.data.layouts.compose import picture_in_picture
from mmpo.data.records import read_records, text_of
from mmpo.errors import UserError
from mmpo.eval.multi_image.metrics import (
    MultiQuestion,
    build_questions,
    read_questions,
    score,
    write_questions,
)
from mmpo.eval.protocol import Ask, Material, Part, Reply, near_ties, needed
from mmpo.eval.scoring import Scored, ScoreRequest, scorer
from mmpo.eval.settings import EvalSettings
from mmpo.eval.yes_no import ParserName
from mmpo.files.atomic import write_bytes, write_text
from mmpo.files.images import encode_image, load_image
from mmpo.progress import track

PICTURES = "multi_image_pictures"


class MultiImageBenchmark:
    """Questions about one of several pictures. Collages and pictures in a picture are made once, in the folder where
    replies are kept."""

    def __init__(self, material: Material | None, settings: EvalSettings) -> None:
        ready = needed(material, "multi_image")
        self.settings = settings.multi_image
        self._root = ready.images[0].root
        self._folder = Path(settings.cache or ".") / PICTURES
        self._composer = Composer()
        self.questions = build_questions(ready.truth, ready.vocabulary.names, self.settings)
        self._asks = {
            question.id: self._ask(question)
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

    def asks(self) -> list[Ask]:
        return list(dict.fromkeys(self._asks.values()))

    def score(self, replies: Mapping[Ask, Reply]) -> list[Part]:
        parts = []
        for layout in [*self.settings.layouts, None]:
            given = self._answered(replies, layout)
            if not given or (layout is None and len(self.settings.layouts) == 1):
                continue
            questions = [question for question, _ in given]
            tally, unread = score(questions, [reply.text for _, reply in given], self.settings.parser)
            if layout is None:
                tally = replace(tally, categories={})
            yes_no = {self._asks[q.id]: reply for q, reply in given if q.kind != "which"}
            parts.append(
                Part(
                    layout or "all layouts",
                    tally,
                    len(given),
                    truncated=sum(reply.truncated for _, reply in given),
                    unparsed=unread,
                    total=layout is None,
                    near_ties=near_ties(yes_no),
                )
            )
        return parts

    def write(self, folder: Path, replies: Mapping[str, Mapping[Ask, Reply]]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        write_questions(folder / "questions.jsonl", self.questions)
        for state, given in replies.items():
            rows = [{"id": question.id, "answer": reply.text} for question, reply in self._answered(given, None)]
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            write_text(folder / f"answers_{state}.jsonl", "".join(lines))

    def _answered(self, replies: Mapping[Ask, Reply], layout: str | None) -> list[tuple[MultiQuestion, Reply]]:
        return [
            (question, replies[self._asks[question.id]])
            for question in self.questions
            if layout in (None, question.layout) and self._asks[question.id] in replies
        ]

    def _ask(self, question: MultiQuestion) -> Ask:
        own = self.settings
        if question.layout == "sequence":
            first, *more = question.pictures
            return Ask(first, question.prompt, own.max_new_tokens, more=tuple(more))
        name = self._composed(question.layout, question.pictures)
        return Ask(name, question.prompt, own.max_new_tokens, str(self._folder))

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
    parser = request.parser or "official"
    questions = {question.id: question for question in read_questions(request.questions)}
    answers: dict[str, str] = {}
    strangers = read = 0
    for where, row in read_records(request.answers):
        read += 1
        name = text_of(row, ("id",), where)
        if name in answers:
            raise UserError(f"{where}: a second answer to {name}")
        if name in questions:
            answers[name] = text_of(row, ("answer", "text"), where)
        else:
            strangers += 1
    if not answers:
        raise UserError(f"{request.answers}: no answer belongs to a question of {request.questions}")
    metrics: dict[str, object] = {}
    unread = 0
    for layout in dict.fromkeys(question.layout for question in questions.values()):
        given = [question for question in questions.values() if question.layout == layout and question.id in answers]
        if given:
            tally, missing = score(given, [answers[question.id] for question in given], parser)
            unread += missing
            undefined = set(tally.undefined)
            metrics[layout] = {name: None if name in undefined else v for name, v in tally.values.items()}
    everything = [question for question in questions.values() if question.id in answers]
    tally, _ = score(everything, [answers[question.id] for question in everything], parser)
    metrics["all layouts"] = tally.values
    left = len(questions) - len(answers)
    return Scored(
        metrics=metrics,
        conventions=[
            f"fractions; yes and no read by the rule {parser}, image numbers by `Image 3`, an ordinal or a bare number",
            "interference: yes to an object that only another picture shows; confusion: another image named",
        ],
        read=read,
        scored=len(answers),
        unparsed=unread,
        quarantined={"the question is not in the file": strangers} if strangers else {},
        warnings=[f"{left} of {len(questions)} questions have no answer"] if left else [],
    )
