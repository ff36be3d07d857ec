"""VideoHallucer and TempCompass as a benchmark: asked through the engine on frames, read by rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmpo.errors import UserError
from mmpo.eval.protocol import FrameChoice, Grade, Part, Request, Response, cut_off
from mmpo.eval.task import Context, QuestionTask, benchmark
from mmpo.eval.temporal import tempcompass, videohallucer
from mmpo.eval.temporal.metrics import PARSERS, TemporalBenchmark, TemporalQuestion, is_right, read, tally
from mmpo.eval.temporal.settings import TemporalSettings
from mmpo.files.atomic import write_json


@benchmark("temporal", settings=TemporalSettings, needs="its questions and videos")
class Temporal(QuestionTask[TemporalSettings, TemporalQuestion]):
    """Questions with short answers about videos. `partial`: what is about unreadable videos is left out."""

    partial = True
    kind: TemporalBenchmark

    def __init__(self, settings: TemporalSettings, context: Context) -> None:
        super().__init__(settings, context)
        own = settings
        if own.questions is None or own.videos is None:
            raise UserError(
                "temporal needs its questions and videos", hint="set eval.temporal.questions and eval.temporal.videos"
            )
        self.kind, questions = read(own.questions)
        if own.parser not in PARSERS[self.kind]:
            raise UserError(
                f"eval.temporal.parser: {self.kind} has no parser {own.parser!r}",
                hint=f"one of {', '.join(PARSERS[self.kind])}",
            )
        captions = sum(question.part == "captioning" for question in questions)
        questions = [question for question in questions if question.part != "captioning"]
        if not questions:
            raise UserError(
                f"{own.questions}: only captions, which no rule can read",
                hint="have the model caption the videos, and rate the answers: mmpo eval score tempcompass --judge",
            )
        groups = list(dict.fromkeys(question.group for question in questions))[: context.limit]
        kept = set(groups)
        self.questions = [replace(question, rating=None) for question in questions if question.group in kept]
        suffixes = " or ".join(repr(text) for text in dict.fromkeys(self._suffix(q) for q in self.questions))
        self.conventions = [
            f"temporal ({self.kind}): {len(self.questions)} questions followed by {suffixes}, "
            f"{own.frames.num} frames ({own.frames.sampling}), greedy, at most {own.max_new_tokens} tokens; read by "
            f"the rule {own.parser}, without a language model; what no rule reads counts as wrong"
            + (f"; {captions} captions are left out" if captions else "")
        ]

    def answered(self, responses: Mapping[Request, Response]) -> list[tuple[TemporalQuestion, Response]]:
        """The questions whose whole pair has responses."""
        lost = {question.group for question in self.questions if self.request(question) not in responses}
        return [one for one in super().answered(responses) if one[0].group not in lost]

    def parts(self, given: Sequence[tuple[TemporalQuestion, Response]]) -> list[Part]:
        answered = _filled(given)
        unread = sum(is_right(self.kind, question, self.settings.parser) is None for question in answered)
        return [Part(None, tally(self.kind, answered, self.settings.parser), len(given), cut_off(given), unread)]

    def grade(self, question: TemporalQuestion, response: Response) -> Grade:
        right = is_right(self.kind, replace(question, prediction=response.text), self.settings.parser)
        return Grade(question.answer, None, bool(right), question.side or question.category or None)

    def write(self, folder: Path, responses: Mapping[str, Mapping[Request, Response]]) -> None:
        for state, given in responses.items():
            write_json(folder / f"answers_{state}.json", self._published(_filled(self.answered(given))))

    def _published(self, answered: list[TemporalQuestion]) -> Any:
        """Predictions in the benchmark's own form."""
        if self.kind == "tempcompass":
            videos: dict[str, dict[str, list[dict[str, Any]]]] = {}
            for q in answered:
                row = {"question": q.question, "answer": q.answer, "prediction": q.prediction}
                videos.setdefault(q.video, {}).setdefault(q.category, []).append(row)
            return videos
        pairs: dict[str, dict[str, Any]] = {}
        for q in answered:
            part = {"video": q.video, "question": q.question, "answer": q.answer, "predict": q.prediction}
            pairs.setdefault(q.group, {"type": q.category})[q.side] = part
        return list(pairs.values())

    def _suffix(self, question: TemporalQuestion) -> str:
        if self.settings.prompt_suffix is not None:
            return self.settings.prompt_suffix
        task = next((task for task in tempcompass.TASKS if task == question.part), None)
        return videohallucer.SUFFIX if task is None else tempcompass.SUFFIXES[task]

    def request(self, question: TemporalQuestion) -> Request:
        own = self.settings
        video = own.video_pattern.replace("{video}", question.video)
        frames = FrameChoice(own.frames.num, own.frames.sampling, own.frames.max_side)
        return Request(video, question.question + self._suffix(question), own.max_new_tokens, own.videos, frames)


def _filled(given: Sequence[tuple[TemporalQuestion, Response]]) -> list[TemporalQuestion]:
    return [replace(question, prediction=response.text) for question, response in given]
